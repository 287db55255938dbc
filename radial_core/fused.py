"""Fused norms: what surrounds attention in a transformer block, in fewer passes over memory.

Those of a packed sequence are in fused_packed.py.

At real sizes the norms, rotations, modulations and gates of a block are limited by memory
bandwidth. As separate operations they take 11 % (Wan 14B) to 18 % (HunyuanVideo) of a forward pass
with radial attention (benchmarks/results/end_to_end-unfused-h100.json; each: fused-h100.json).
"""

import importlib
import logging
from collections import Counter
from collections.abc import Callable

import torch
import torch.nn.functional as F

from .call import capability, is_out_of_memory, on_device

log = logging.getLogger("radial_attention")

DTYPES = (torch.bfloat16, torch.float16)
KERNELS = "norms"  # the file with the kernels of these operations
COLUMNS = 4096  # of a row, for each program of beside_gelu
RUNS = 3  # in which an operation may fail before it stays off

_verdicts: dict[tuple, str | None] = {}  # (device, dtype, file of kernels) -> why not
_failed: set[tuple] = set()  # in this run; wrong results don't count here: they stay off for good
_failed_runs: Counter[tuple] = Counter()
_said: set[str] = set()


def next_run() -> None:
    """A run has ended: what failed in it is tried again in the next, RUNS times in all."""
    for key in list(_failed):
        if _failed_runs[key] < RUNS:
            _verdicts.pop(key, None)
    _failed.clear()


def why_not(
    *tensors: torch.Tensor, kernels: str = KERNELS, cases: Callable | None = None
) -> str | None:
    """Why these operations can't take such tensors, None if they can. They have no backward.

    kernels: the file in kernels/ that operations use; those of one file are proven together. cases:
    that prove them, as `_cases` does for the operations in this file.
    """
    if torch.is_grad_enabled():
        return "gradients"
    x = tensors[0]
    if any(each.dtype != x.dtype or each.device != x.device for each in tensors):
        return "tensors of different kinds"
    if x.dtype not in DTYPES:
        return f"{x.dtype}"
    if capability(x.device) < (8, 0):
        return f"{x.device} is no NVIDIA GPU of the RTX 30 series or newer"
    key = (x.device, x.dtype, kernels)
    if key not in _verdicts:
        try:
            _say_once(wrong := _first_wrong(x.device, x.dtype, cases or _cases))
            _verdicts.setdefault(key, wrong)  # keeps the reason of a kernel that could not start
        except Exception as error:
            if is_out_of_memory(error):
                return "no memory to prove them"  # not kept: there may be memory next time
            _remember(key, f"{type(error).__name__}: {error}")
    return _verdicts[key]


def rms_norm_rope(
    x: torch.Tensor,
    weight: torch.Tensor,
    freqs: torch.Tensor,
    eps: float,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """RMSNorm, then rotary embedding of adjacent pairs.

    x: (b, s, h, d), any strides but the last, which is 1; d a power of 2. weight: (d,) to normalize
    each head by itself, or (h * d,) to normalize all heads together. freqs: (1 or b, s, d / 2, 2,
    2), float32, contiguous except for the batch. out: the tensor to write to, (b, s, h, d),
    contiguous except for the batch; a new one if None.
    """
    batch, tokens, heads, head_dim = x.shape
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device) if out is None else out
    strides = *x.stride()[:3], _batch_stride(freqs), out.stride(0)
    constants = head_dim, power_of_2(heads), weight.numel() == head_dim
    arguments = x, weight, freqs, out, heads, *strides, eps, *constants
    if not launched("rms_norm_rope", (tokens, batch), arguments, out):
        rows = x if weight.numel() == head_dim else x.flatten(2)
        normed = F.rms_norm(rows.float(), weight.shape, weight.float(), eps).view(x.shape)
        pairs, freqs = normed.unflatten(-1, (-1, 2)), freqs.expand(batch, *freqs.shape[1:])
        out.copy_(torch.einsum("bspij,bshpj->bshpi", freqs, pairs).flatten(-2))
    return out


def layer_norm_modulate(
    x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, eps: float
) -> torch.Tensor:
    """LayerNorm(x) * (1 + scale) + shift. x: contiguous (b, s, c); scale, shift: (1 or b, 1, c)."""
    batch, tokens, width = x.shape
    out = torch.empty_like(x)
    strides = _batch_stride(scale), _batch_stride(shift)
    arguments = x, scale, shift, out, width, tokens, *strides, eps, power_of_2(width)
    if not launched("layer_norm_modulate", (tokens, batch), arguments, out, num_warps=8):
        out.copy_(F.layer_norm(x, (width,), eps=eps) * (1 + scale) + shift)
    return out


def add_gated(x: torch.Tensor, y: torch.Tensor, gate: torch.Tensor, out=None) -> torch.Tensor:
    """x + y * gate. x, y: contiguous (b, s, c); gate: (1 or b, 1, c). out may be x."""
    batch, tokens, width = x.shape
    y = y.contiguous()
    out = torch.empty_like(x) if out is None else out
    arguments = x, y, gate, out, width, tokens, _batch_stride(gate), power_of_2(width)
    if not launched("add_gated", (tokens, batch), arguments, out):
        out.copy_(torch.addcmul(x, y, gate))
    return out


def beside_gelu(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Writes x to the first columns of y, and GELU (tanh form) of the others in place; returns y.

    x: (b, s, c). y: (b, s, c + e). Any strides but the last, which is 1.
    """
    batch, tokens, x_width = x.shape
    width = y.shape[2]
    columns = min(COLUMNS, power_of_2(width))
    arguments = x, y, x_width, width, *x.stride()[:2], *y.stride()[:2], columns
    if not launched("beside_gelu", (tokens, batch, -(-width // columns)), arguments, y):
        y[..., :x_width] = x
        y[..., x_width:] = F.gelu(y[..., x_width:], approximate="tanh")
    return y


def launched(
    name: str, grid: tuple, arguments: tuple, out: torch.Tensor, kernels: str = KERNELS, **options
) -> bool:
    """Runs a kernel. False if it can't be compiled or started, and so has written nothing."""
    try:
        file = importlib.import_module(f".kernels.{kernels}", __package__)
        with on_device(out.device):
            getattr(file, name)[grid](*arguments, **options)
        return True
    except Exception as error:
        if is_out_of_memory(error):
            raise
        _remember(
            (out.device, out.dtype, kernels), f"{name} failed: {type(error).__name__}: {error}"
        )
        return False


def _remember(key: tuple, failure: str) -> None:
    _verdicts[key] = failure
    if key not in _failed:
        _failed.add(key)
        _failed_runs[key] += 1
        _say_once(failure)


def _say_once(why: str | None) -> None:
    if why is not None and why not in _said:
        _said.add(why)
        log.warning("No fused norms: %s", why)


def power_of_2(n: int) -> int:
    """The smallest one that is not below n."""
    return 1 << (n - 1).bit_length()


def _batch_stride(x: torch.Tensor) -> int:
    return x.stride(0) if x.shape[0] > 1 else 0


def _first_wrong(device: torch.device, dtype: torch.dtype, cases: Callable) -> str | None:
    """Which operation differs from torch in float64, and by how much; None if none does."""
    for name, out, truth in cases(device, dtype):
        error = ((out.double() - truth).norm() / truth.norm()).item()
        if not error < 8 * torch.finfo(dtype).eps:
            return f"{name} is off by {error:.1e}"
    return None


def _cases(device, dtype, seed: int = 0):
    """Name, output and expected output of each operation, on random tensors of odd shapes."""
    drawn = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=drawn).to(device, dtype)

    qkv = draw(2, 7, 3, 3, 16)
    x, angles = qkv[:, :, 1], torch.randn(1, 7, 8, generator=drawn).to(device)
    cos, sin = angles.cos(), angles.sin()
    freqs = torch.stack((cos, -sin, sin, cos), dim=-1).unflatten(-1, (2, 2))
    for weight in (draw(16), draw(48)):
        rows = x if weight.numel() == 16 else x.flatten(2)
        normed = F.rms_norm(rows.double(), weight.shape, weight.double(), 1e-6).view(x.shape)
        turned = torch.einsum("bspij,bshpj->bshpi", freqs.double(), normed.unflatten(-1, (8, 2)))
        yield "rms_norm_rope", rms_norm_rope(x, weight, freqs, 1e-6), turned.flatten(-2)

    x, y, (scale, shift) = draw(2, 7, 36), draw(2, 7, 36), draw(2, 2, 1, 36)
    normed = F.layer_norm(x.double(), (36,), eps=1e-6)
    truth = normed * (1 + scale.double()) + shift.double()
    yield "layer_norm_modulate", layer_norm_modulate(x, scale, shift, 1e-6), truth
    yield "add_gated", add_gated(x, y, scale), x.double() + y.double() * scale.double()

    x, y = draw(2, 7, 20), draw(2, 7, 3, 50)[:, :, 1]
    gelu = F.gelu(y[..., 20:].double(), approximate="tanh")
    yield "beside_gelu", beside_gelu(x, y), torch.cat((x.double(), gelu), dim=2)
