"""What cards exchange so that each has all tokens of some heads, and back.

On each of several cards (b, its share of the tokens, h, d) becomes (b, all tokens, its share of the
heads, d). Neither tokens nor heads need to be divisible by the number of cards.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch

from .token_share import share_of, share_sizes


class Work(Protocol):
    def wait(self) -> None:
        """What is computed after this sees what was exchanged."""


class Group(Protocol):
    """The cards that compute together. rank: of this one, from 0. size: how many there are."""

    rank: int
    size: int

    def all_to_all(
        self, out: torch.Tensor, x: torch.Tensor, out_sizes: list[int], sizes: list[int]
    ) -> Work:
        """Begin to send each card its part of x (n,), and to fill out (m,) with what they send.

        out_sizes, sizes: numbers from and for each card, one after another. Both are contiguous.
        """


def own_heads(heads: int, group: Group) -> slice:
    """The heads that this card has in attention."""
    return share_of(heads, group.size, group.rank)


def to_heads(
    group: Group, tensors: Sequence[torch.Tensor], lengths: Sequence[int]
) -> list[torch.Tensor]:
    """All tokens of this card's heads.

    tensors: each (b, s, h, d), of the card's tokens. lengths: tokens in each stream of the whole
    sequence. -> each (b, sum(lengths), this card's heads, d), contiguous.
    """
    outputs, begun = [], []
    for x in tensors:
        batch, _, heads, width = x.shape
        own = own_heads(heads, group)
        out = x.new_empty(batch, sum(lengths), own.stop - own.start, width)
        outputs.append(out)
        for i in range(batch):
            begun += _streams_to_heads(group, x[i], out[i], lengths)
    for work, _ in begun:
        work.wait()
    return outputs


def _streams_to_heads(group: Group, x, out, lengths: Sequence[int]) -> Iterator[tuple]:
    """Of one video. x: (s, h, d). out: (all tokens, this card's heads, d).

    Yields what has begun, and what must be kept until it is done.
    """
    for length, tokens in zip(lengths, x.split(_own(group, lengths)), strict=True):
        by_heads = tokens.split(share_sizes(x.shape[1], group.size), dim=1)
        sizes = [part.numel() for part in by_heads]
        sent = x.new_empty(sum(sizes))
        for part, place in zip(by_heads, sent.split(sizes), strict=True):
            place.view(part.shape).copy_(part)
        received, out = out[:length].view(-1), out[length:]
        row = received.numel() // length if length else 0
        out_sizes = [row * n for n in share_sizes(length, group.size)]
        yield group.all_to_all(received, sent, out_sizes, sizes), sent


def to_tokens(group: Group, x: torch.Tensor, lengths: Sequence[int], heads: int) -> torch.Tensor:
    """The way back. x: (b, sum(lengths), this card's heads, d) -> (b, s, heads, d).

    heads: how many all cards have together.
    """
    x, own = x.contiguous(), _own(group, lengths)
    out = x.new_empty(x.shape[0], sum(own), heads, x.shape[3])
    begun = []
    for of_video, whole in zip(out, x, strict=True):
        for place, sent in zip(of_video.split(own), whole.split(list(lengths)), strict=True):
            by_heads = place.split(share_sizes(heads, group.size), dim=1)
            out_sizes = [part.numel() for part in by_heads]
            received = x.new_empty(sum(out_sizes))
            sizes = [sent[:1].numel() * n for n in share_sizes(len(sent), group.size)]
            work = group.all_to_all(received, sent.view(-1), out_sizes, sizes)
            begun.append((work, received.split(out_sizes), by_heads))
    for work, received, by_heads in begun:
        work.wait()
        for part, flat in zip(by_heads, received, strict=True):
            part.copy_(flat.view(part.shape))
    return out


def gather(group: Group, x: torch.Tensor, dim: int, length: int) -> torch.Tensor | None:
    """All tokens of a stream on the first card, None on the others. x: this card's, along dim."""
    x = x.movedim(dim, 0).contiguous()
    is_first = group.rank == 0
    out = x.new_empty(length if is_first else 0, *x.shape[1:])
    row = out[:1].numel()
    out_sizes = [row * n if is_first else 0 for n in share_sizes(length, group.size)]
    sizes = [x.numel()] + [0] * (group.size - 1)
    group.all_to_all(out.view(-1), x.view(-1), out_sizes, sizes).wait()
    return out.movedim(0, dim) if is_first else None


def _own(group: Group, lengths: Sequence[int]) -> list[int]:
    """This card's tokens in each stream."""
    return [share_sizes(length, group.size)[group.rank] for length in lengths]
