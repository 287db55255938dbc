"""Whether the video's tokens come to the blocks in order: frame by frame, row by row.

A pack that puts them into another order does so with their rotations (RoPE), which the first block
gets too. In order, a channel turns by the frame, the row or the column alone: tokens that share it
share the channel's rotation. That holds for any positions, such as those of a context window. It
can't be seen of a model whose channels mix the three (Mochi), or that is compiled as a whole, or
that has no matrices (LTX in ComfyUI 0.16.3), nor where whole frames change places, nor that the
video begins some tokens off.
"""

from collections.abc import Iterable
from functools import lru_cache
from itertools import chain

import torch

from ...radial_core import VideoLayout
from ..families.base import TokenLayout

SAMPLES = 16  # tokens
SAME = 0.05  # rotations that differ by less are the same, in any dtype
MOST_SAMPLES = 0.75  # of the samples that agree where a channel turns by one of the three
MOST_CHANNELS = 0.1  # that may turn otherwise: 0 in our tests' models, 0.43 in a random order


class TokenOrder:
    """What the passes of a run show. To read a result waits for the GPU.

    So it is read at once in the first pass. Later ones are read when the next step begins, which
    waits for the GPU anyway.
    """

    def __init__(self):
        self._is_wrong: dict[tuple[int, int, int], bool] = {}  # by grid
        self._unread: dict[tuple[int, int, int], torch.Tensor] = {}
        self._step = None

    def begin(self, step: int) -> None:
        """A pass begins, of this step of the run."""
        if step != self._step:
            for grid in list(self._unread):
                share = self._unread.pop(grid, None)
                if share is not None:  # else the thread of another device read it
                    self._read(grid, share)
        self._step = step

    def is_wrong(self, tokens: TokenLayout, arguments: Iterable) -> bool:
        """Whether the order is wrong in a pass. arguments: what its first block gets."""
        share, grid = other_channels(tokens, arguments), tokens.grid
        if share is None:
            return False
        if grid in self._is_wrong:
            self._unread[grid] = share
        else:
            self._read(grid, share)
        return self._is_wrong[grid]

    def _read(self, grid: tuple[int, int, int], share: torch.Tensor) -> None:
        self._is_wrong[grid] = share.item() > MOST_CHANNELS


def other_channels(tokens: TokenLayout, arguments: Iterable) -> torch.Tensor | None:
    """The share of channels that turn by neither frame, row nor column, as a tensor ().

    None if no argument is or has a table of rotations: (..., tokens, ..., channels, 2, 2).
    """
    for x in chain.from_iterable(x if isinstance(x, tuple) else (x,) for x in arguments):
        if torch.is_tensor(x) and x.ndim > 3 and x.shape[-2:] == (2, 2):
            for dim in range(x.ndim - 3):
                layout = tokens.layout(x.shape[dim])
                if layout is not None:
                    return _other_channels(x.movedim(dim, 0), layout)
    return None


def _other_channels(rotations: torch.Tensor, layout: VideoLayout) -> torch.Tensor:
    """rotations: (tokens, ..., channels, 2, 2)."""
    index = _samples(layout, rotations.device)
    rows = rotations.index_select(0, index.flatten())[..., 0].float()
    token, *others = rows.unflatten(0, index.shape)
    same = torch.stack([(token - other).abs().amax(-1) < SAME for other in others])
    by_one = (same.float().mean(1) > MOST_SAMPLES).any(0)
    return 1 - by_one.float().mean()


@lru_cache  # to copy it to the GPU waits
def _samples(layout: VideoLayout, device: torch.device) -> torch.Tensor:
    """(4, samples): places of tokens, and of those with which they share frame, row or column."""
    generator = torch.Generator().manual_seed(0)
    sizes = layout.frames, layout.height, layout.width
    frame, row, column = (
        torch.randint(min(1, n - 1), n, (SAMPLES,), generator=generator) for n in sizes
    )
    frame, row = frame * layout.height * layout.width, row * layout.width
    places = torch.stack([frame + row + column, frame, row, column])
    return (layout.prefix + places).to(device)
