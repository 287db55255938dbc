"""What a backend is: the names that each file in this folder defines, and what they promise.

A backend is a module, not a class. It gets tensors and a plan, and knows nothing of masks. Its file
imports torch and nothing else; the library it stands for is imported inside the functions.

To add one: a file here, its name in `BACKENDS` (backends/__init__.py), and a place in the rankings
of the GPUs where it is worth trying (ranking.py). One that is in no ranking can still be named.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from ..call import Call
from ..plan import Plan

# What the node, the report and the benchmarks call exact backends, and those that are not.
PRECISIONS = ("exact", "8 bit")


def exact_tolerance(dtype: torch.dtype) -> float:
    """The largest relative RMS error of an exact backend: about five times what rounding makes."""
    return max(1.5 * torch.finfo(dtype).eps, 2e-3)


@dataclass(frozen=True)
class Accuracy:
    """A backend's class, and the error up to which it passes its proof (proof.py).

    exact: it rounds no more than attention in the dtype of its inputs must. "auto" takes those that
        are not only where the caller asks for approximate attention.
    tolerance: by dtype of q, k and v, the relative RMS error of the output, the lse and each
        gradient: |ours - oracle| / |oracle|. A dtype that is left out is one it can't prove.

    Raises ValueError if an exact backend allows itself more than `exact_tolerance`.
    """

    exact: bool
    tolerance: Mapping[torch.dtype, float]

    def __post_init__(self):
        for dtype, error in self.tolerance.items():
            if self.exact and error > exact_tolerance(dtype):
                raise ValueError(
                    f"the tolerance of an exact backend must be at most {exact_tolerance(dtype):g} "
                    f"for {dtype}, got {error:g}"
                )

    @property
    def precision(self) -> str:
        """One of PRECISIONS."""
        exact, eight_bit = PRECISIONS
        return exact if self.exact else eight_bit


FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
EXACT = Accuracy(True, {dtype: exact_tolerance(dtype) for dtype in FLOATS})


class Backend(Protocol):
    """Attention over the kept blocks of a plan.

    q, k, v and out are (b, s, h, d): batch, tokens, heads, head_dim; any strides, one dtype, one
    device. `run` is only called for calls that `why_not` accepts.
    """

    ACCURACY: Accuracy

    def why_not(call: Call) -> str | None:
        """Why the backend can't take such a call, with what to install; None if it can.

        call.grad: gradients of q, k and v will be asked for, and of the lse if call.lse.
        call.per_head: the plan has lists of its own for each head. A backend without gradients,
        lse or lists per head says so here. Takes microseconds after the first time: no kernel is
        compiled, and nothing is allocated on the device.
        """

    def run(
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        plan: Plan,
        softmax_scale: float,
        return_lse: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """out, like q; and the lse, None unless return_lse.

        Each query of a block attends to the keys of the blocks that the plan keeps for it. lse: the
        natural log of the softmax's denominator, float32 (b, h, s). Errors may be raised: they are
        logged, and another backend takes the call.
        """


class DenseKernel(Protocol):
    """A kernel that attends to everything. One that can do nothing else is not in BACKENDS."""

    ACCURACY: Accuracy

    def why_not_dense(call: Call) -> str | None:
        """Why `dense` can't take such a call, as `why_not`. call.block_size and call.lse are no
        part of the question.
        """

    def dense(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, softmax_scale: float
    ) -> torch.Tensor:
        """out, like q: every query attends to all keys. q, k and v have one shape."""


class DenseBackend(Backend, DenseKernel, Protocol):
    """A backend with a dense kernel too, as accurate as its sparse one.

    A backend without a dense kernel defines neither of its functions.
    """
