"""Full attention as the person chose it: what computes a call that we don't."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from ..comfyui.attention_functions import comfyuis_own, container_function_of
from ..comfyui.sparse_attention import below_sparse, sparse_owner
from .decision import Dense, NotOurs, Sparse


class Attention(NamedTuple):
    """func: ComfyUI's for the call, or the checkpoint's. override: on the hook, gets func; or None.

    is_chosen: whether either was chosen, by a node or a checkpoint. passed_by: whose sparse
    attention would have taken the call.
    """

    func: Callable
    override: Callable | None
    is_chosen: bool
    passed_by: str | None = None


def as_before(func: Callable, previous: Callable | None, preferred: Callable | None) -> Attention:
    """What would have taken a call without ours.

    previous: the override on the hook. preferred: the function that the checkpoint chose.
    """
    if previous is None and preferred is not None:
        return Attention(preferred, None, True)
    return Attention(func, previous, previous is not None)


def full(func: Callable, previous: Callable | None, preferred: Callable | None) -> Attention:
    """The same, but for other packs' sparse attention: that is passed by, for what it stands on."""
    previous, of_override = below_sparse(previous)
    of_function = sparse_owner(func)
    if of_function is not None:
        func = comfyuis_own()
    return as_before(func, previous, preferred)._replace(passed_by=of_override or of_function)


def other_attention(
    decision: Sparse | Dense | NotOurs,
    func: Callable,
    previous: Callable | None,
    preferred: Callable | None,
) -> Attention:
    """What computes a call in our place: full attention in the dense steps and blocks.

    All else that we don't take is as it would be without us.
    """
    if isinstance(decision, NotOurs):
        return as_before(func, previous, None)
    if isinstance(decision, Sparse) or decision.is_wanted:
        return full(func, previous, preferred)
    return as_before(func, previous, preferred)


def run(attention: Attention, q, k, v, heads: int, kwargs: dict):
    """The output of a call. q, k, v: tensors, or ComfyUI's containers, which are then emptied."""
    func, override, *_ = attention
    if in_containers(q):
        by_containers = container_function(attention)
        if by_containers is not None:
            return by_containers(q, k, v, heads, **kwargs)
        q, k, v = q.take(), k.take(), v.take()
    call = func if override is None else partial(override, func)
    return call(q, k, v, heads, **kwargs)


def in_containers(q) -> bool:
    """Whether q, k and v of a call are in ComfyUI's containers."""
    return hasattr(q, "peek")


def container_function(attention: Attention) -> Callable | None:
    """What takes q, k and v in containers, so that it can free them early; None if nothing does."""
    if attention.override is not None:
        return getattr(attention.override, "container_function", None)
    return container_function_of(attention.func)
