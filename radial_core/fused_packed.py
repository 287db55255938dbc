"""Fused operations on a packed sequence, without a batch: text, sound and video in one.

Its tokens come in segments. All tokens of a segment have the same row of modulation.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F

from . import fused

KERNELS = "packed_norms"
COLUMNS = 2048  # of a row, for each program of swiglu
HEADS = 64  # for each program of rms_norm_rope_halves_
Segments = tuple[tuple[int, int, int], ...]  # first token, the one after the last, row; in order


def why_not(*tensors: torch.Tensor) -> str | None:
    """Why these operations can't take such tensors, None if they can. They have no backward."""
    return fused.why_not(*tensors, kernels=KERNELS, cases=_cases)


def rms_norm_modulate(
    x: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    shift: torch.Tensor,
    segments: Segments,
    eps: float,
) -> torch.Tensor:
    """RMSNorm(x) * (1 + scale) + shift.

    x: contiguous (s, c). weight: (c,). scale, shift: (r, c) in any dtype, any strides but the last,
    which is 1. segments: of all tokens.
    """
    tokens, width = x.shape
    out, rows = torch.empty_like(x), _rows_of(segments, x.device)
    strides = scale.stride(0), shift.stride(0)
    arguments = x, weight, scale, shift, rows, out, width, *strides, eps, fused.power_of_2(width)
    if not _launched("rms_norm_modulate", (tokens,), arguments, out, num_warps=8):
        out.copy_(F.rms_norm(x.float(), (width,), weight.float(), eps))
        for start, stop, row in segments:
            out[start:stop].mul_(1 + scale[row]).add_(shift[row])
    return out


def add_gated_(
    x: torch.Tensor, y: torch.Tensor, gate: torch.Tensor, segments: Segments
) -> torch.Tensor:
    """x += y * gate. x, y: contiguous (s, c). gate, segments: as in `rms_norm_modulate`."""
    tokens, width = x.shape
    y, rows = y.contiguous(), _rows_of(segments, x.device)
    arguments = x, y, gate, rows, width, gate.stride(0), fused.power_of_2(width)
    if not _launched("add_gated_rows", (tokens,), arguments, x):
        for start, stop, row in segments:
            x[start:stop].addcmul_(y[start:stop], gate[row].to(x.dtype))
    return x


def rms_norm_rope_halves_(
    x: torch.Tensor, weights: torch.Tensor, freqs: torch.Tensor, eps: float
) -> None:
    """RMSNorm of each head, then rotary embedding of pairs (i, i + p) of a head, in place.

    x: (s, n, h, d), any strides but the last, which is 1; d even. weights: contiguous (n, d).
    freqs: contiguous (s, p, 2, 2), in any dtype. What comes after 2 * p in a head is not rotated.
    """
    (tokens, number, heads, head_dim), pairs = x.shape, freqs.shape[1]
    together = min(HEADS, fused.power_of_2(heads))
    constants = head_dim, pairs, together, fused.power_of_2(head_dim // 2)
    arguments = x, weights, freqs, heads, *x.stride()[:3], eps, *constants
    grid = tokens, number, -(-heads // together)
    if not _launched("rms_norm_rope_halves", grid, arguments, x, num_warps=8):
        for part, weight in zip(x.unbind(1), weights, strict=True):
            normed = F.rms_norm(part.float(), (head_dim,), weight.float(), eps)
            halves = normed[..., : 2 * pairs].unflatten(-1, (2, pairs))
            turned = torch.einsum("spij,shjp->ship", freqs.float(), halves)
            part.copy_(torch.cat((turned.flatten(-2), normed[..., 2 * pairs :]), dim=-1))


def swiglu(x: torch.Tensor) -> torch.Tensor:
    """SiLU of the first half of x (s, 2 * c) times the other: (s, c)."""
    x = x.contiguous()
    tokens, width = x.shape[0], x.shape[1] // 2
    out = x.new_empty(tokens, width)
    columns = min(COLUMNS, fused.power_of_2(width))
    arguments = x, out, width, x.stride(0), columns
    if not _launched("swiglu", (tokens, -(-width // columns)), arguments, out):
        gate, other = x.chunk(2, dim=-1)
        torch.mul(F.silu(gate), other, out=out)
    return out


def _launched(*arguments, **options) -> bool:
    return fused.launched(*arguments, kernels=KERNELS, **options)


@lru_cache(8)
def _rows_of(segments: Segments, device: torch.device) -> torch.Tensor:
    """The row of each token, (s,). All blocks of all passes over the same prompt share it."""
    lengths = torch.tensor([stop - start for start, stop, _ in segments])
    rows = torch.tensor([row for *_, row in segments], dtype=torch.int32)
    return rows.repeat_interleave(lengths).to(device)


def _cases(device, dtype, seed: int = 0):
    """Name, output and expected output of each operation, on random tensors of odd shapes."""
    drawn = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=drawn).to(device, dtype)

    segments = (0, 2, 3), (2, 3, 0), (3, 7, 2)
    x, y, weight = draw(7, 36), draw(7, 36), draw(36)
    scale, shift = draw(4, 2 * 36).chunk(2, dim=1)
    rows = torch.tensor([3, 3, 0, 2, 2, 2, 2], device=device)
    truth = F.rms_norm(x.double(), (36,), weight.double(), 1e-5)
    truth = truth * (1 + scale.double()[rows]) + shift.double()[rows]
    yield "rms_norm_modulate", rms_norm_modulate(x, weight, scale, shift, segments, 1e-5), truth
    truth = x.double() + y.double() * scale.double()[rows]
    yield "add_gated_", add_gated_(x, y, scale, segments), truth

    for pairs, dim in ((6, 20), (4, 8)):
        qkv, weights, freqs = draw(7, 3, 3, dim), draw(2, dim), draw(7, pairs, 2, 2)
        before = qkv.double()
        rms_norm_rope_halves_(qkv[:, :2], weights, freqs, 1e-5)
        normed = before / (before.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()
        normed = normed[:, :2] * weights.double()[:, None]
        first, second = normed[..., :pairs], normed[..., pairs : 2 * pairs]
        a, b, c, d = freqs.double().flatten(-2)[:, None, None].unbind(-1)
        turned = a * first + b * second, c * first + d * second
        truth = torch.cat((*turned, normed[..., 2 * pairs :]), dim=-1)
        yield "rms_norm_rope_halves_", qkv, torch.cat((truth, before[:, 2:]), dim=1)

    x = draw(7, 38)
    gate, other = x.double().chunk(2, dim=1)
    yield "swiglu", swiglu(x), gate * gate.sigmoid() * other
