"""The fastest dense attention at hand, for the steps and blocks that stay dense.

By default ComfyUI asks torch, which runs FlashAttention-2 at half of what a Hopper GPU can do.
Where a faster kernel is installed and proves itself, it takes the call.
"""

import torch
from torch.nn.functional import scaled_dot_product_attention

from . import failures
from .backends import backend_module
from .backends.ranking import dense_ranking
from .call import SIGNALS, Call, call_key, on_device, with_one_gradient_layout
from .masks.radial import RadialPattern
from .proof import LAYOUT, is_provisional, verdict

BLOCK_SIZE = 128  # of the plan that keeps everything, which the proof uses

_NOT_CHOSEN = object()
# By whether approximate kernels may run, and `call_key`. None: torch's own choice is the best.
_choices: dict[tuple, str | None] = {}


def dense_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    softmax_scale: float | None = None,
    approximate: bool = False,
) -> tuple[torch.Tensor, str]:
    """Dense attention of (b, s, h, d) tensors, and the name of the kernel that computed it.

    softmax_scale: d ** -0.5 if None. approximate: whether kernels that are not exact may run. A
    kernel that fails is logged, and torch's choice, named "sdpa", takes the call.
    """
    scale = q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
    name = fastest_dense(q, k, v, approximate)
    if name is not None:
        try:
            with on_device(q.device):
                return backend_module(name).dense(q, k, v, scale), name
        except SIGNALS:
            raise
        except Exception as error:
            if failures.remember(_kernel(name), Call(*call_key(q, k, v, BLOCK_SIZE)), error):
                _choices.clear()
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    out = scaled_dot_product_attention(q, k, v, scale=scale)
    return with_one_gradient_layout(out).transpose(1, 2), "sdpa"


def fastest_dense(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, approximate: bool = False
) -> str | None:
    """The kernel that `dense_attention` would run; None where torch's choice is the best."""
    if not q.shape == k.shape == v.shape:
        return None
    kind = call_key(q, k, v, BLOCK_SIZE)
    choice = _choices.get((approximate, kind), _NOT_CHOSEN)
    if choice is not _NOT_CHOSEN:
        return choice
    call, final = Call(*kind), True
    for name in dense_ranking(call, approximate):
        if why_not(name, call) is None:
            break
        final = final and not is_provisional(_kernel(name), call)
    else:
        name = None
    if final:
        _choices[approximate, kind] = name
    return name


def forget_choices() -> None:
    """Choose anew from now on. A kernel that is the choice until now has worked."""
    for (_, kind), name in list(_choices.items()):
        failures.worked(_kernel(name), Call(*kind))
    _choices.clear()


def why_not(name: str, call: Call) -> str | None:
    """Why a backend's dense kernel can't take such a call, for a person to read; None if it can."""
    backend = backend_module(name)

    def run(q, k, v, plan, softmax_scale, return_lse):
        return backend.dense(q, k, v, softmax_scale), None

    everything = RadialPattern(sink_frames=LAYOUT.frames)
    return failures.ask(_kernel(name), backend.why_not_dense, call) or verdict(
        _kernel(name), call, run, backend.ACCURACY, everything
    )


def _kernel(name: str) -> str:
    """A dense kernel fails and proves itself apart from the sparse one of its backend."""
    return f"dense {name}"
