"""Pattern x layout -> the key blocks each query block sees, on a device."""

import threading
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch

from .layout import VideoLayout
from .pattern import RadialPattern, begin_behind, block_count

PLANS_KEPT = 8  # with what backends make of them, some 10 MiB each at 461k tokens, 50 with text
# A plan that keeps more than this share of its blocks, as those of short sequences do, is slower
# than dense attention: measured on an H100, benchmarks/results/crossover-h100.json.
MOST_DENSITY = 0.95
STRIP = (64, 768)  # frames, and tokens of each frame, whose rows are computed together
RUNS_AT_ONCE = 2**17  # bounds the scratch memory of building a plan, to some MiB


@dataclass(frozen=True, eq=False)
class Plan:
    """Kept blocks in compressed rows: row p sees key blocks indices[indptr[p] : indptr[p + 1]].

    indptr: int32 (blocks + 1,), indices: int32 (kept blocks,), ascending in each row. Both on the
    plan's device. The last block holds what is left of the `tokens`.
    """

    pattern: RadialPattern
    layout: VideoLayout
    indptr: torch.Tensor
    indices: torch.Tensor

    @property
    def block_size(self) -> int:
        return self.pattern.block_size

    @property
    def tokens(self) -> int:
        return self.layout.tokens

    @property
    def blocks(self) -> int:
        return self.indptr.numel() - 1

    @property
    def device(self) -> torch.device:
        return self.indptr.device

    @property
    def density(self) -> float:
        """Kept share of the block map."""
        return self.indices.numel() / self.blocks**2

    @cached_property
    def video_density(self) -> float:
        """Kept share of the part of the block map whose blocks, both ways, hold video tokens."""
        first = self.layout.prefix // self.block_size
        last = (self.layout.prefix + self.layout.video_tokens - 1) // self.block_size
        row = self._row_of_each_index()
        video = (row >= first) & (row <= last) & (self.indices >= first) & (self.indices <= last)
        return int(video.sum()) / (last - first + 1) ** 2

    @cached_property
    def table(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The rows side by side: int32 lengths (blocks,), and key blocks (blocks, longest row).

        What stands behind a row's end is 0.
        """
        # In inference mode it would become a tensor that training can't save for backward.
        with torch.inference_mode(False):
            lengths = self.indptr.diff()
            place = torch.arange(self.indices.numel(), dtype=torch.int32, device=self.device)
            row = self._row_of_each_index()
            table = self.indices.new_zeros(self.blocks, int(lengths.max()))
            table[row, place - self.indptr[row]] = self.indices
            return lengths, table

    @cached_property
    def columns(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The table of the columns, which gradients of k and v walk: int32 lengths (blocks,), and
        query blocks (blocks, longest column), ascending. What stands behind an end is 0.
        """
        with torch.inference_mode(False):
            column, order = self.indices.sort(stable=True)
            row = self._row_of_each_index()[order]
            lengths = torch.bincount(column, minlength=self.blocks)
            place = torch.arange(len(order), device=self.device)
            place -= (lengths.cumsum(0) - lengths)[column]
            table = self.indices.new_zeros(self.blocks, int(lengths.max()))
            table[column, place] = row
            return lengths.int(), table

    @cached_property
    def order(self) -> torch.Tensor:
        """The rows in the order to compute them, int32 (blocks,): it changes only the speed.

        A row sees the frames near it in full, and far ones near its own place. So rows of one place
        in many frames share what they see far away, rows of one frame what they see nearby. Strips
        of both shapes at once keep most in the GPU's cache: at 461k tokens on an H100, 3 in 4 reads
        hit it, in place of 1 in 2. Rows with text, which see everything, come first, so that no
        program is left with one at the end.
        """
        with torch.inference_mode(False):
            start = torch.arange(self.blocks) * self.block_size - self.layout.prefix
            end = (start + self.block_size).clamp(max=self.tokens - self.layout.prefix)
            text = (start < 0) | (end > self.layout.video_tokens)
            frame = start // self.layout.tokens_per_frame
            place = start % self.layout.tokens_per_frame
            strip = (frame // STRIP[0], place // STRIP[1], frame)
            return _sorted_rows(~text, *strip).to(self.device, torch.int32)

    def block_mask(self) -> torch.Tensor:
        """The block map, bool (query blocks, key blocks). Takes blocks squared bytes."""
        mask = torch.zeros(self.blocks, self.blocks, dtype=torch.bool, device=self.device)
        mask[self._row_of_each_index(), self.indices] = True
        return mask

    def _row_of_each_index(self) -> torch.Tensor:
        rows = torch.arange(self.blocks, dtype=torch.int32, device=self.device)
        return rows.repeat_interleave(self.indptr.diff(), output_size=self.indices.numel())


def _sorted_rows(*keys: torch.Tensor) -> torch.Tensor:
    """Rows sorted by the first key, then the second and so on; the same ones stay as they are."""
    rows = torch.arange(len(keys[0]))
    for key in reversed(keys):
        rows = rows[key[rows].sort(stable=True).indices]
    return rows


def make_plan(
    pattern: RadialPattern, layout: VideoLayout, device: torch.device | str = "cpu"
) -> Plan:
    """The plan of a pattern over a layout, on a device. The last few plans made are kept."""
    device = torch.device(device)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    with _lock:
        return _cached_plan(pattern, layout, device)


_lock = threading.Lock()


@lru_cache(maxsize=PLANS_KEPT)
def _cached_plan(pattern: RadialPattern, layout: VideoLayout, device: torch.device) -> Plan:
    # ComfyUI samples in inference mode; a plan made there must serve training too.
    with torch.inference_mode(False):
        indptr, indices = _compressed_rows(pattern, layout)
        return Plan(pattern, layout, indptr.to(device), indices.to(device))


def _compressed_rows(
    pattern: RadialPattern, layout: VideoLayout
) -> tuple[torch.Tensor, torch.Tensor]:
    blocks = block_count(layout, pattern.block_size)
    frames_in_a_block = pattern.block_size // layout.tokens_per_frame + 2
    rows_at_once = max(1, RUNS_AT_ONCE // (layout.frames * frames_in_a_block))
    counts, indices = [], []
    for start in range(0, blocks, rows_at_once):
        rows = range(start, min(start + rows_at_once, blocks))
        first, last = pattern.key_runs(layout, rows)
        begin_behind(first, last)
        length = (last - first + 1).clamp(min=0)
        counts.append(length.sum(dim=1))

        length = length.flatten()
        end = length.cumsum(0, dtype=torch.int32)
        index = (first.flatten() - end + length).repeat_interleave(length)
        indices.append(index + torch.arange(len(index), dtype=torch.int32))
    counts = torch.cat(counts)
    indptr = torch.zeros(blocks + 1, dtype=torch.int32)
    indptr[1:] = counts.cumsum(0)
    return indptr, torch.cat(indices)
