"""The fastest exact dense attention at hand, for the steps and blocks that stay dense.

ComfyUI's default asks torch for its FlashAttention-2, which reaches half of what a Hopper GPU can
do. Where a faster kernel is there and proves itself, it takes the call.
"""

import logging
import threading

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from .backends import backend_module
from .call import Call, capability, is_out_of_memory, on_device
from .pattern import RadialPattern
from .proof import LAYOUT, may_pass, verdict

log = logging.getLogger("radial_attention")

BLOCK_SIZE = 128  # of the plan that keeps everything, which the proof uses
# Fastest first, as measured (benchmarks/results/attention-h100.json). On other GPUs torch's own
# choice is not known to be beaten.
RANKING = {9: ("flash_attention", "triton", "cudnn"), 10: ("flash_attention", "cudnn")}

_choices: dict[tuple, str | None] = {}
_failures: set[tuple[str, Call]] = set()
_said: set[tuple[str, Call]] = set()
_cudnn_lock = threading.Lock()


def dense_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, softmax_scale: float | None = None
) -> tuple[torch.Tensor, str]:
    """Dense attention of (b, s, h, d) tensors, and the name of the kernel that computed it.

    softmax_scale: d ** -0.5 if None. A kernel that fails is logged, and torch's choice, named
    "sdpa", takes the call.
    """
    scale = q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
    name = fastest_dense(q, k, v)
    if name is not None:
        try:
            with on_device(q.device):
                return _run(name, q, k, v, scale)[0], name
        except Exception as error:
            _remember(name, Call(*_kind(q, k, v)), error)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2), "sdpa"


def fastest_dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> str | None:
    """The kernel that `dense_attention` would run; None where torch's choice is the best."""
    if not q.shape == k.shape == v.shape:
        return None
    kind = _kind(q, k, v)
    if kind in _choices:
        return _choices[kind]
    call, sure = Call(*kind), True
    for name in RANKING.get(capability(call.device)[0], ()):
        reason = why_not(name, call)
        if reason is None:
            break
        sure = sure and not may_pass(reason)
    else:
        name = None
    if sure:
        _choices[kind] = name
    return name


def why_not(name: str, call: Call) -> str | None:
    """Why a dense kernel can't take such a call, for a person to read; None if it can."""
    if (name, call) in _failures:
        return f"dense {name} failed before"
    try:
        ask = _why_not_cudnn if name == "cudnn" else backend_module(name).why_not_dense
        reason = ask(call)
    except Exception as error:  # another pack's stub of a library, say
        reason = f"{name} can't be asked: {type(error).__name__}: {error}"

    def run(q, k, v, plan, softmax_scale, return_lse):
        return _run(name, q, k, v, softmax_scale)

    everything = RadialPattern(sink_frames=LAYOUT.frames)
    return reason or verdict(f"dense {name}", call, run, everything)


def _remember(name: str, call: Call, error: Exception) -> None:
    """Log a failure once; ask no more for that kernel, unless it failed for want of memory."""
    if (name, call) not in _said:
        _said.add((name, call))
        log.warning("Dense %s failed on %s: %s", name, call, error, exc_info=error)
    if not is_out_of_memory(error):
        _failures.add((name, call))
        _choices.clear()


def _kind(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> tuple:
    grad = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    return q.device, q.dtype, q.shape[-1], BLOCK_SIZE, grad


def _why_not_cudnn(call: Call) -> str | None:
    if call.dtype not in (torch.float16, torch.bfloat16):
        return f"cuDNN's attention needs float16 or bfloat16, got {call.dtype}"
    if call.head_dim > 128 or call.head_dim % 8:
        return f"cuDNN's attention needs a multiple of 8 up to 128, got head_dim {call.head_dim}"
    return None


def _run(name, q, k, v, softmax_scale) -> tuple[torch.Tensor, None]:
    if name != "cudnn":
        return backend_module(name).dense(q, k, v, softmax_scale, False)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    # The choice is the whole process's, and another GPU's thread may be here, too.
    with _cudnn_lock, sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return scaled_dot_product_attention(q, k, v, scale=softmax_scale).transpose(1, 2), None
