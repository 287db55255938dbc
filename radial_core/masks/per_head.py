"""A mask of its own for each head."""

from dataclasses import dataclass

import torch

from ..layout import VideoLayout
from .mask import BlockMask


@dataclass(frozen=True)
class MaskPerHead:
    """One mask for each head, head 0 first. Each has one list for all heads.

    Raises ValueError if the masks differ in block size, or there is none.
    """

    masks: tuple[BlockMask, ...]

    def __post_init__(self):
        sizes = {mask.block_size for mask in self.masks}
        if len(sizes) != 1:
            raise ValueError(f"masks must share one block size, got {sorted(sizes)}")

    @property
    def name(self) -> str:
        return " / ".join(mask.name for mask in self.masks)

    @property
    def block_size(self) -> int:
        return self.masks[0].block_size

    @property
    def heads(self) -> int:
        return len(self.masks)

    def most_runs(self, layout: VideoLayout) -> int:
        return max(mask.most_runs(layout) for mask in self.masks)

    def key_runs(
        self, layout: VideoLayout, rows: torch.Tensor, head: int = 0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self.masks[head].key_runs(layout, rows)
