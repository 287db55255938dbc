"""Calls with padding: text tokens that an attention mask hides from all queries."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from .call import wants_gradients


def absent_tokens(mask: torch.Tensor, tokens: int) -> tuple[int, ...] | None:
    """The keys, of `tokens`, that a mask hides from all queries, batches and heads alike; None if
    it does anything else.

    mask: as torch's scaled_dot_product_attention takes it, (..., keys): bool, True where a key is
    seen, or numbers that are added to the scores. Reading it waits for the GPU.
    """
    if mask.shape[-1:] != (tokens,) or mask.numel() != tokens:
        return None
    if mask.dtype != torch.bool and not mask.is_floating_point():
        return None
    mask = mask.detach().flatten().cpu()
    if mask.dtype == torch.bool:
        absent = ~mask
    else:
        absent = mask <= torch.finfo(mask.dtype).min / 2
        if not (absent | (mask == 0)).all():
            return None
    return tuple(absent.nonzero().flatten().tolist())


@contextmanager
def without_padding(
    tensors: Sequence[torch.Tensor], prefix: int, absent: Sequence[int]
) -> Iterator[list[torch.Tensor]]:
    """(b, s, h, d) tensors without the absent tokens, which must be among the first `prefix`.

    q, k and v of a long video are gigabytes, its text is not. So only text is copied: the present
    tokens move next to the video, in place, and back at the end. Gradients forbid that, so with
    them everything is copied.
    """
    gone = len(absent)
    present = _present(tensors[0], prefix, absent)
    if wants_gradients(*tensors):
        yield [torch.cat((x[:, present], x[:, prefix:]), dim=1) for x in tensors]
        return
    before = [x[:, gone:prefix].clone() for x in tensors]
    try:
        for x in tensors:
            x[:, gone:prefix] = x[:, present]
        yield [x[:, gone:] for x in tensors]
    finally:
        for x, text in zip(tensors, before, strict=True):
            x[:, gone:prefix] = text


def with_padding(out: torch.Tensor, prefix: int, absent: Sequence[int]) -> torch.Tensor:
    """The output (b, s, h, d) of a call that was closed up, for all tokens: 0 for the absent ones.

    Nothing reads these: as keys they are absent in the next call, too.
    """
    present = _present(out, prefix, absent)
    whole = out.new_zeros(out.shape[0], out.shape[1] + len(absent), *out.shape[2:])
    whole[:, present] = out[:, : len(present)]
    whole[:, prefix:] = out[:, len(present) :]
    return whole


def _present(like: torch.Tensor, prefix: int, absent: Sequence[int]) -> torch.Tensor:
    """Places of the tokens in the prefix that are not absent."""
    gone = set(absent)
    return torch.tensor([i for i in range(prefix) if i not in gone], device=like.device, dtype=int)
