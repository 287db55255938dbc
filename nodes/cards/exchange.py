"""A call of self-attention that several cards compute together, each some of its heads."""

from collections.abc import Callable

import torch

from ...radial_core.ulysses.exchange import Group, own_heads, to_heads, to_tokens
from ...radial_core.ulysses.token_share import TokenShare


def attend(
    group: Group,
    share: TokenShare,
    timed: Callable,
    compute: Callable,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    heads: int,
    skip_reshape: bool,
    skip_output_reshape: bool,
    kwargs: dict,
) -> torch.Tensor:
    """The output for this card's tokens, in the layout that the call asks for.

    q, k, v: (b, h, s, d) if skip_reshape, else (b, s, h * d), of this card's tokens. timed:
    (function, arguments) -> what the function returns, for what waits for the other cards. compute:
    (q, k, v, heads, arguments) -> what ComfyUI and others on its attention hook make of a call.
    kwargs: the call's other arguments.
    """
    if skip_reshape:
        tensors = [x.transpose(1, 2) for x in (q, k, v)]
    else:
        tensors = [x.unflatten(2, (heads, -1)) for x in (q, k, v)]
    own = own_heads(heads, group)
    tensors = [share.without_copies(x, 1) for x in tensors]
    tensors = timed(to_heads, group, tensors, share.lengths)
    count = own.stop - own.start
    flat = [x.flatten(2) for x in tensors]
    del tensors, q, k, v
    out = compute(*flat, count, skip_reshape=False, skip_output_reshape=False, **kwargs)
    del flat
    out = timed(to_tokens, group, out.unflatten(2, (count, -1)), share.lengths, heads)
    out = share.with_copies(out, 1)
    return out.transpose(1, 2) if skip_output_reshape else out.flatten(2)
