"""The fastest exact dense attention at hand, for the steps and blocks that stay dense.

ComfyUI's default asks torch for its FlashAttention-2, which reaches half of what a Hopper GPU can
do. Where a faster kernel is there and proves itself, it takes the call.
"""

import torch
from torch.nn.functional import scaled_dot_product_attention

from . import failures
from .backends import backend_module
from .call import (
    SIGNALS,
    Call,
    capability,
    kind_of,
    on_device,
    readable,
    wants_gradients,
    with_one_gradient_layout,
)
from .masks.radial import RadialPattern
from .proof import LAYOUT, may_pass, verdict

BLOCK_SIZE = 128  # of the plan that keeps everything, which the proof uses
# Fastest first, as measured (benchmarks/results/attention-h100.json). On other GPUs torch's own
# choice is not known to be beaten.
RANKING = {9: ("flash_attention", "triton", "cudnn"), 10: ("flash_attention", "cudnn")}
CUDNN = "_scaled_dot_product_cudnn_attention"  # of torch.ops.aten

UNKNOWN = object()
_choices: dict[tuple, str | None] = {}


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
        except SIGNALS:
            raise
        except Exception as error:
            if failures.remember(f"dense {name}", Call(*kind_of(q, k, v, BLOCK_SIZE)), error):
                _choices.clear()
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    out = scaled_dot_product_attention(q, k, v, scale=scale)
    return with_one_gradient_layout(out).transpose(1, 2), "sdpa"


def fastest_dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> str | None:
    """The kernel that `dense_attention` would run; None where torch's choice is the best."""
    if not q.shape == k.shape == v.shape:
        return None
    kind = kind_of(q, k, v, BLOCK_SIZE)
    chosen = _choices.get(kind, UNKNOWN)
    if chosen is not UNKNOWN:
        return chosen
    call, sure = Call(*kind), True
    for name in RANKING.get(capability(call.device)[0], ()):
        if why_not(name, call) is None:
            break
        sure = sure and not may_pass(f"dense {name}", call)
    else:
        name = None
    if sure:
        _choices[kind] = name
    return name


def forget_choices() -> None:
    """Choose anew from now on. What is the choice until now works, or it would not be."""
    for kind, name in list(_choices.items()):
        failures.worked(f"dense {name}", Call(*kind))
    _choices.clear()


def why_not(kernel: str, call: Call) -> str | None:
    """Why a dense kernel can't take such a call, for a person to read; None if it can."""
    ask = _why_not_cudnn if kernel == "cudnn" else backend_module(kernel).why_not_dense

    def run(q, k, v, plan, softmax_scale, return_lse):
        return _run(kernel, q, k, v, softmax_scale)

    everything = RadialPattern(sink_frames=LAYOUT.frames)
    name = f"dense {kernel}"
    return failures.ask(name, ask, call) or verdict(name, call, run, everything)


def _why_not_cudnn(call: Call) -> str | None:
    if not hasattr(torch.ops.aten, CUDNN):
        return "this torch has no cuDNN attention"
    if torch.are_deterministic_algorithms_enabled():
        if not torch.is_deterministic_algorithms_warn_only_enabled():
            return "cuDNN's attention is not deterministic"
    if call.dtype not in (torch.float16, torch.bfloat16):
        return f"cuDNN's attention needs float16 or bfloat16, got {call.dtype}"
    if call.head_dim > 128 or call.head_dim % 8:
        return f"cuDNN's attention needs a multiple of 8 up to 128, got head_dim {call.head_dim}"
    return None


def _run(name, q, k, v, softmax_scale) -> tuple[torch.Tensor, None]:
    if name != "cudnn":
        return backend_module(name).dense(q, k, v, softmax_scale, False)
    return _cudnn(q, k, v, softmax_scale), None


def _cudnn(q, k, v, softmax_scale) -> torch.Tensor:
    """What scaled_dot_product_attention calls when it has chosen cuDNN.

    Making it choose sets flags of the whole process, which other threads' attention would obey.
    """
    keeps_lse = wants_gradients(q, k, v)  # the backward pass needs it
    q, k, v = (readable(x).transpose(1, 2) for x in (q, k, v))
    attend = getattr(torch.ops.aten, CUDNN)
    out = attend(q, k, v, None, keeps_lse, scale=softmax_scale)[0]
    return with_one_gradient_layout(out).transpose(1, 2)
