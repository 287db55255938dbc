"""Mask x layout -> the key blocks that each query block attends to, on a device."""

import threading
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import groupby

import torch

from .devices import device_module, is_gpu
from .layout import VideoLayout
from .masks.mask import BlockMask, kept_runs

PLANS_KEPT = 8  # with what backends make of them, up to some 30 MiB each
# A plan that keeps more than this share of its blocks, as those of short sequences do, is slower
# than dense attention: measured on an H100, benchmarks/results/crossover-h100.json.
MOST_DENSITY = 0.95
TABLE_BYTES = 2**24  # a larger table is cut: see `Plan.cut_rows`
STRIP = (64, 768)  # frames, and tokens of each frame, whose rows are computed together
RUNS_AT_ONCE = 2**17  # bounds the scratch memory of building a plan, to some MiB


@dataclass(frozen=True, eq=False)
class Plan:
    """Kept blocks in compressed rows, one list of rows for all heads or one for each head.

    In list h, query block p attends to key blocks indices[indptr[h, p] : indptr[h, p + 1]], which
    ascend. indptr: int32 (lists, blocks + 1). indices: int32 (kept blocks of all lists,). Both on
    the plan's device. The last block holds what is left of the `tokens`.
    """

    mask: BlockMask
    layout: VideoLayout
    indptr: torch.Tensor
    indices: torch.Tensor

    @property
    def block_size(self) -> int:
        return self.mask.block_size

    @property
    def tokens(self) -> int:
        return self.layout.tokens

    @property
    def blocks(self) -> int:
        return self.indptr.shape[1] - 1

    @property
    def lists(self) -> int:
        """1 if all heads share one list of rows, else the number of heads."""
        return self.indptr.shape[0]

    @cached_property  # asked for at every call
    def per_head(self) -> bool:
        return self.lists > 1

    @property
    def device(self) -> torch.device:
        return self.indptr.device

    @property
    def density(self) -> float:
        """Kept share of the block map, as a mean over the heads."""
        return self.indices.numel() / (self.lists * self.blocks**2)

    @cached_property
    def video_density(self) -> float:
        """Kept share of the part of the block map whose blocks, both ways, hold video tokens."""
        first = self.layout.prefix // self.block_size
        last = (self.layout.prefix + self.layout.video_tokens - 1) // self.block_size
        row = self._row_of_each_index() % self.blocks
        video = (row >= first) & (row <= last) & (self.indices >= first) & (self.indices <= last)
        return int(video.sum()) / (self.lists * (last - first + 1) ** 2)

    @cached_property
    def table(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The rows side by side: int32 lengths (lists, blocks), and key blocks (lists, blocks,
        longest row), 0 past a row's end.

        If there is text, it takes 4 * blocks squared bytes for each list.
        """
        return self._rows_side_by_side(self._lengths)

    @cached_property
    def bounded_table(self) -> tuple[torch.Tensor, torch.Tensor]:
        """`table` with the `cut_rows` cut to their first key block; the same one if there are none.

        It is as wide as the longest of the other rows.
        """
        if not self.cut_rows:
            return self.table
        with torch.inference_mode(False):
            lengths = torch.where(self._keeps_everything, 1, self._lengths)
        return self._rows_side_by_side(lengths)

    @cached_property
    def cut_rows(self) -> tuple[slice, ...]:
        """The query tokens whose rows `bounded_table` cuts: a backend computes them densely
        (dense_rows.py).

        Rows with text keep everything, so with them the table is blocks squared: 49 MiB at 461k
        tokens, and 198 MiB in blocks of 64. Empty if the whole table takes TABLE_BYTES at most.
        """
        if 4 * self._lengths.numel() * int(self._lengths.max()) <= TABLE_BYTES:
            return ()
        rows = enumerate(self._keeps_everything.tolist())
        tokens = []
        for keeps_everything, group in groupby(rows, lambda row: row[1]):
            if keeps_everything:
                numbers = [number for number, _ in group]
                end = min((numbers[-1] + 1) * self.block_size, self.tokens)
                tokens.append(slice(numbers[0] * self.block_size, end))
        return tuple(tokens)

    @cached_property
    def columns(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The table of the columns, which gradients of k and v walk: int32 lengths (lists, blocks),
        and query blocks (lists, blocks, longest column), ascending, 0 past a column's end.

        All queries see the sink, so it takes up to 4 * blocks squared bytes for each list.
        """
        with torch.inference_mode(False):
            row = self._row_of_each_index()
            column, order = (row // self.blocks * self.blocks + self.indices).sort(stable=True)
            lengths = torch.bincount(column, minlength=self.lists * self.blocks)
            place = torch.arange(len(order), device=self.device)
            place -= (lengths.cumsum(0) - lengths)[column]
            table = self.indices.new_zeros(self.lists * self.blocks, int(lengths.max()))
            table[column, place] = row[order] % self.blocks
            return lengths.int().view(self.lists, -1), table.view(self.lists, self.blocks, -1)

    @cached_property
    def order(self) -> torch.Tensor:
        """The rows in the order to compute them, for all heads, int32 (blocks,). It changes only
        the speed.

        A radial row sees the frames near it in full, and distant ones near its own place. So rows
        of one place in many frames share the distant keys, and rows of one frame the near ones.
        Strips that have both keep most keys in the GPU's cache: at 461k tokens on an H100, 3 in 4
        reads hit it instead of 1 in 2. Rows with text, which see everything, come first, so that no
        program starts one at the end.
        """
        with torch.inference_mode(False):
            start = torch.arange(self.blocks) * self.block_size - self.layout.prefix
            end = (start + self.block_size).clamp(max=self.tokens - self.layout.prefix)
            text = (start < 0) | (end > self.layout.video_tokens)
            frame = start // self.layout.tokens_per_frame
            place = start % self.layout.tokens_per_frame
            strip = (frame // STRIP[0], place // STRIP[1], frame)
            return _sorted_rows(~text, *strip).to(self.device, torch.int32)

    def with_lists(self, indptr: torch.Tensor, indices: torch.Tensor) -> "Plan":
        """Other lists over the same layout. They share what does not depend on the lists."""
        plan = replace(self, indptr=indptr, indices=indices)
        vars(plan)["order"] = self.order
        return plan

    def block_mask(self) -> torch.Tensor:
        """The block map, bool (query blocks, key blocks), or (heads, query blocks, key blocks) if
        heads have lists of their own. Takes blocks squared bytes for each list.
        """
        shape = self.lists * self.blocks, self.blocks
        mask = torch.zeros(shape, dtype=torch.bool, device=self.device)
        mask[self._row_of_each_index(), self.indices] = True
        return mask.view(self.lists, self.blocks, -1) if self.per_head else mask

    @cached_property
    def _lengths(self) -> torch.Tensor:
        """Kept blocks of each row, int32 (lists, blocks)."""
        # A tensor made in inference mode could not be saved for backward in training.
        with torch.inference_mode(False):
            return self.indptr.diff(dim=1)

    @cached_property
    def _keeps_everything(self) -> torch.Tensor:
        """The rows that keep all blocks in all lists, bool (blocks,)."""
        with torch.inference_mode(False):
            return (self._lengths == self.blocks).all(dim=0)

    def _row_of_each_index(self) -> torch.Tensor:
        """Rows of the lists one after another: list * blocks + row, int32 (kept blocks,)."""
        rows = torch.arange(self.lists * self.blocks, dtype=torch.int32, device=self.device)
        lengths = self.indptr.diff(dim=1).flatten()
        return rows.repeat_interleave(lengths, output_size=self.indices.numel())

    def _rows_side_by_side(self, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`table`, with the first `lengths` (lists, blocks) of each row."""
        with torch.inference_mode(False):
            row = self._row_of_each_index()
            place = torch.arange(self.indices.numel(), dtype=torch.int32, device=self.device)
            place -= self.indptr[:, :-1].flatten()[row]
            table = self.indices.new_zeros(self.lists * self.blocks, int(lengths.max()))
            kept = (place < lengths.flatten()[row]).nonzero().flatten()
            table[row[kept], place[kept]] = self.indices[kept]
            return lengths, table.view(self.lists, self.blocks, -1)


def _sorted_rows(*keys: torch.Tensor) -> torch.Tensor:
    """Rows sorted by the first key, then the second and so on; equal ones keep their order."""
    rows = torch.arange(len(keys[0]))
    for key in reversed(keys):
        rows = rows[key[rows].sort(stable=True).indices]
    return rows


def make_plan(mask: BlockMask, layout: VideoLayout, device: torch.device | str = "cpu") -> Plan:
    """The plan of a mask over a layout, on a device. The last few are kept until the run ends."""
    device = torch.device(device)
    if is_gpu(device) and device.index is None:
        device = torch.device(device.type, device_module(device).current_device())
    with _lock:
        return _cached_plan(mask, layout, device)


def forget_plans() -> None:
    """Free the plans that nobody uses, with all that backends made of them."""
    with _lock:
        _cached_plan.cache_clear()


_lock = threading.Lock()


@lru_cache(maxsize=PLANS_KEPT)
def _cached_plan(mask: BlockMask, layout: VideoLayout, device: torch.device) -> Plan:
    # ComfyUI samples in inference mode; a plan made there must serve training too.
    with torch.inference_mode(False):
        indptr, indices = _compressed_rows(mask, layout)
        return Plan(mask, layout, indptr.to(device), indices.to(device))


def _compressed_rows(mask: BlockMask, layout: VideoLayout) -> tuple[torch.Tensor, torch.Tensor]:
    blocks = layout.blocks(mask.block_size)
    rows_at_once = max(1, RUNS_AT_ONCE // mask.most_runs(layout))
    counts, indices = [], []
    for head in range(mask.heads):
        for rows in torch.arange(blocks).split(rows_at_once):
            first, last = kept_runs(mask, layout, rows, head)
            length = (last - first).add_(1)
            counts.append(length.sum(dim=1))

            length = length.flatten()
            end = length.cumsum(0, dtype=torch.int32)
            index = (first.flatten() - end + length).repeat_interleave(length)
            indices.append(index + torch.arange(len(index), dtype=torch.int32))
    indptr = torch.zeros(mask.heads * blocks + 1, dtype=torch.int32)
    indptr[1:] = torch.cat(counts).cumsum(0)
    return indptr.unfold(0, blocks + 1, blocks).contiguous(), torch.cat(indices)
