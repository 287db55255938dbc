"""Computes an attention call as it was decided: by its plan, or by the fastest dense kernel."""

from contextlib import nullcontext

import torch

from ...radial_core.attention import attend
from ...radial_core.padding import with_padding, without_padding
from ...radial_core.plan import Plan
from .adaptive import CallLists
from .decision import Dense, Sparse
from .dense_choice import attend_fast


def compute(
    decision: Sparse | Dense,
    q,
    k,
    v,
    heads: int,
    kwargs: dict,
    backend: str,
    approximate: bool = False,
    lists: CallLists | None = None,
) -> tuple[torch.Tensor | None, str | None]:
    """The output, in the layout that the call asks for, and the name of the kernel.

    Twice None for a dense call that ComfyUI's own attention computes as well. q, k, v: (b, h, s, d)
    if skip_reshape, else (b, s, h * d). backend: for sparse calls. approximate: whether the kernel
    may be one that is not exact. lists: of a sparse call, in the place of the plan's.
    """
    if torch.is_autocast_enabled(q.device.type):  # in training: as torch's own attention does
        dtype = torch.get_autocast_dtype(q.device.type)
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
    tensors = to_bshd(q, k, v, heads, kwargs["skip_reshape"])
    scale, padding = kwargs.get("scale"), decision.padding
    unpadded = nullcontext(tensors)
    if padding is not None:
        unpadded = without_padding(tensors, padding.prefix, padding.absent)
    with unpadded as (q, k, v):
        if isinstance(decision, Sparse):
            plans = [decision.plan] if lists is None else lists.plans(q, k, decision.plan, scale)
            out, name = _attend_each(q, k, v, plans, backend, scale, approximate)
            if lists is not None:
                lists.repair(q, k, v, out, decision.plan, scale)
        else:
            out, name = attend_fast(q, k, v, scale, approximate)
    if out is None:
        return None, None
    if padding is not None:
        out = with_padding(out, padding.prefix, padding.absent)
    return out.transpose(1, 2) if kwargs["skip_output_reshape"] else out.flatten(2), name


def _attend_each(
    q, k, v, plans: list[Plan], backend: str, scale: float | None, approximate: bool
) -> tuple[torch.Tensor, str]:
    """plans: one for each video of the batch, or one for all."""
    if len(plans) == 1:
        out, _, name = attend(q, k, v, plans[0], backend, scale, approximate=approximate)
        return out, name
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    for i, plan in enumerate(plans):
        one = (x[i : i + 1] for x in (q, k, v))
        out[i : i + 1], _, name = attend(*one, plan, backend, scale, approximate=approximate)
    return out, name


def to_bshd(q, k, v, heads: int, skip_reshape: bool) -> tuple[torch.Tensor, ...]:
    """The tensors of a call on ComfyUI's hook as (b, s, h, d), without a copy."""
    if skip_reshape:
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    shape = (*q.shape[:2], heads, q.shape[2] // heads)
    return q.view(shape), k.view(shape), v.view(shape)
