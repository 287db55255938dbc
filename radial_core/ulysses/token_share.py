"""The share of a sequence's tokens that one of several cards has."""

import itertools
import math
from collections.abc import Sequence

import torch


def share_sizes(total: int, cards: int) -> list[int]:
    """How much of something each card has: as even as can be, the first ones have one more."""
    least, more = divmod(total, cards)
    return [least + (card < more) for card in range(cards)]


def share_of(total: int, cards: int, card: int) -> slice:
    """Which part of something a card has."""
    sizes = share_sizes(total, cards)
    start = sum(sizes[:card])
    return slice(start, start + sizes[card])


class TokenShare:
    """One card's share of the tokens in a forward pass.

    The sequence in attention is one stream of tokens, or several, one after another, such as text
    and video. Each card has a share of each stream, and its own sequence is those shares, one after
    another. Numbers and shapes are those of the whole sequence unless said.

    A card has at least one token of each stream, since layers can fail without any. Where a stream
    has fewer tokens than there are cards, the last ones hold a copy of its last token: attention
    leaves it out (`without_copies`), and nobody reads it.
    """

    def __init__(self, rank: int, size: int):
        """rank: the card's, from 0. size: how many cards there are."""
        self.rank, self.size = rank, size
        self.lengths: tuple[int, ...] = ()  # tokens of each stream
        self._tables: dict[tuple, tuple[torch.Tensor, torch.Tensor]] = {}  # whole and cut

    def begin(self, *lengths: int) -> None:
        """How many tokens each stream has. The first block says it, later ones say the same.

        Raises ValueError if they say something else.
        """
        if self.lengths and self.lengths != lengths:
            raise ValueError(f"streams of {self.lengths} tokens, then of {lengths}")
        self.lengths = lengths

    @property
    def count(self) -> int:
        """Tokens that this card has."""
        return sum(part.stop - part.start for part in self._places(None))

    def of_stream(self, stream: int) -> slice:
        """The tokens of a stream that this card has."""
        length = self.lengths[stream]
        part = share_of(length, self.size, self.rank)
        return part if part.start < part.stop else slice(length - 1, length)

    def own_count(self, stream: int) -> int:
        """How many tokens of a stream this card has that are no copies."""
        return share_sizes(self.lengths[stream], self.size)[self.rank]

    def without_copies(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        """x: of all tokens that this card has. -> of those that are no copies."""
        own = self._own_counts()
        if all(own):
            return x
        parts = x.split([max(count, 1) for count in own], dim)
        return torch.cat([part.narrow(dim, 0, n) for part, n in zip(parts, own, strict=True)], dim)

    def with_copies(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        """The way back, with zeros for the copies."""
        own = self._own_counts()
        if all(own):
            return x
        shape = [1 if i == dim else n for i, n in enumerate(x.shape)]
        parts = zip(x.split(own, dim), own, strict=True)
        return torch.cat([part if n else x.new_zeros(shape) for part, n in parts], dim)

    def _own_counts(self) -> list[int]:
        return [self.own_count(stream) for stream in range(len(self.lengths))]

    def tokens(self, x: torch.Tensor, dim: int, stream: int = 0) -> torch.Tensor:
        """This card's share of a stream. It comes back as it is if it is the share already.

        A share that was cut is a copy: blocks add to their tokens in place. Raises ValueError if x
        has some other number of tokens.
        """
        part, given = self.of_stream(stream), x.shape[dim]
        if given == self.lengths[stream]:
            x = x.narrow(dim, part.start, part.stop - part.start)
            return x.clone(memory_format=torch.contiguous_format)
        if given != part.stop - part.start:
            raise ValueError(f"expected {self.lengths[stream]} tokens or a share, got {given}")
        return x

    def table(self, x: torch.Tensor, dim: int, stream: int | None = None) -> torch.Tensor:
        """This card's rows of a table for all tokens, or those of one stream: see `_kept`."""

        def cut():
            parts = [x[(slice(None),) * dim + (part,)] for part in self._places(stream)]
            return parts[0].contiguous() if len(parts) == 1 else torch.cat(parts, dim)

        return self._kept(x, (dim, stream), cut)

    def repeated(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        """This card's rows of a table of one stream whose rows each stand for a run of tokens.

        Runs are as long as in ComfyUI's `repeat_e`: if the tokens can't be divided evenly, they are
        longer by one, and the last is cut off. The share can begin and end within a run, so its
        rows stand for shorter runs, of equal length: often of one token.
        """

        def cut():
            tokens, rows = self.lengths[0], x.shape[dim]
            run = tokens // rows + (tokens % rows > 0)
            part = self.of_stream(0)
            shorter = math.gcd(part.stop - part.start, part.start, run)
            index = torch.arange(part.start, part.stop, shorter, device=x.device) // run
            return x.index_select(dim, index)

        return self._kept(x, (dim, "repeated"), cut)

    def segments(self, segments: Sequence[tuple], stream: int | None = None) -> list[tuple]:
        """Segments (start, stop or None, rest) of a stream, or of all, as they are in the share.

        The rest goes along: a row of modulation, or a tensor with one for each token.
        """
        cut, begin = [], 0
        for part in self._places(stream):
            for start, stop, rest in segments:
                last = part.stop if stop is None else min(stop, part.stop)
                first = max(start, part.start)
                if first < last:
                    own = rest
                    if torch.is_tensor(rest) and rest.ndim:
                        own = rest[first - start : last - start]
                    at = begin - part.start
                    cut.append((first + at, last + at, own))
            begin += part.stop - part.start
        return cut

    def _places(self, stream: int | None) -> list[slice]:
        """The tokens of this card as places in the stream, or in the sequence of all."""
        if stream is not None:
            return [self.of_stream(stream)]
        parts = map(self.of_stream, range(len(self.lengths)))
        starts = itertools.accumulate(self.lengths, initial=0)
        return [slice(at + p.start, at + p.stop) for at, p in zip(starts, parts, strict=False)]

    def _kept(self, x: torch.Tensor, how: tuple, cut) -> torch.Tensor:
        """What `cut` returns, kept: all blocks of a pass get the same table."""
        key = (id(x), *how)
        whole, share = self._tables.get(key, (None, None))
        if whole is not x:
            share = cut()
            self._tables[key] = x, share
        return share
