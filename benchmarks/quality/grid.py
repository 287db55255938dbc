"""What compare.py compares: masks, and which steps and blocks stay dense."""

from dataclasses import dataclass, replace

import masks
import sol
import torch

from radial_core import Schedule, VideoLayout

# Shares of the steps that are dense, at the start.
DENSE_SHARES = (0, 0.1, 0.25, 0.5)
# Radial masks (decay, block size) with whose budgets the other masks are run.
BUDGETS = ((0.2, 64), (1.0, 64), (0.2, 128))
LOW_BUDGET = 0.25  # of the map, in blocks of 64: less than any of the lab's radial masks keeps
STATIC = {
    "sliding": masks.sliding_window,
    "spatial": masks.spatial,
    "temporal": masks.temporal,
}


@dataclass(frozen=True)
class Mask:
    """A mask by its settings.

    method: radial, released, everything, tile, one of STATIC, oracle, sol; or mean_all and
    mean_heads, which keep the blocks with most attention in dense runs of other videos, over all
    heads or for each head of each layer. keep: key blocks of a query block, for methods without
    decay. tau: of sol.
    """

    method: str
    block_size: int = 64
    keep: int | None = None
    decay: float | None = None
    sink_frames: int | None = None
    tau: float | None = None

    def __str__(self):
        settings = {
            "decay": self.decay,
            "sink": self.sink_frames,
            "keep": self.keep,
            "tau": self.tau,
            "block": self.block_size,
        }
        parts = (f"{name} {x:g}" for name, x in settings.items() if x is not None)
        return " ".join([self.method, *parts])

    def block_map(self, layout: VideoLayout) -> torch.Tensor | None:
        """The block map; None for methods that depend on the attention."""
        blocks, size, sink = layout.tokens // self.block_size, self.block_size, self.sink_frames
        if self.method == "everything":
            return torch.ones(blocks, blocks, dtype=torch.bool)
        if self.method in ("radial", "released"):
            return getattr(masks, self.method)(layout, self.decay, sink, size)
        if self.method == "tile":
            return masks.tile_window(layout, self.keep, size)
        if self.method in STATIC:
            return STATIC[self.method](layout, self.keep, size, sink)
        return None


@dataclass(frozen=True)
class Row:
    """One way to sample. question: the question that it answers."""

    question: str
    mask: Mask
    schedule: Schedule = Schedule()

    def __str__(self):
        s = self.schedule
        steps = f"{s.dense_steps}+{s.dense_last_steps}"
        return f"{self.mask}; dense steps {steps}, blocks {s.dense_blocks}"


def main_rows(layout: VideoLayout, steps: int) -> list[Row]:
    """Radial masks against all others."""
    quarter = Schedule(steps // 4)
    rows = [Row("rounding", Mask("everything", size)) for size in (128, 64)]
    rows.append(Row("rounding", _radial(0.2, 128), Schedule(steps)))
    for size, decays in ((128, (0.2, 1.0, 2.0, 4.0)), (64, (0.2, 0.5, 1.0, 2.0))):
        rows += [
            Row("decay and dense steps", _radial(decay, size), Schedule(int(share * steps)))
            for decay in decays
            for share in DENSE_SHARES
        ]
    # The preset for Wan 2.1 at this length.
    rows.append(Row("the node's defaults", _radial(0.2, 128), Schedule(steps // 4, 1, 1)))
    budgets = _budgets(layout)
    for budget in budgets:
        every = [Mask(name, *budget, sink_frames=0) for name in STATIC]
        every += [Mask(name, *budget) for name in ("tile", "mean_all", "mean_heads")]
        rows += [Row("other masks", mask) for mask in every]
        if budget == budgets[1]:
            rows += [Row("other masks", mask, quarter) for mask in every]
    rows += [Row("most attended", Mask("oracle", *budget)) for budget in budgets]
    rows += [Row("most attended", Mask("oracle", *budget), quarter) for budget in budgets[:2]]
    for tau in (sol.TAU, sol.TAU / 2):
        for dense in (Schedule(int(sol.DENSE_SHARE * steps)), Schedule()):
            rows.append(Row("ComfyUI's sparse attention", Mask("sol", sol.BLOCK, tau=tau), dense))
    return rows


def variations(layout: VideoLayout, steps: int) -> list[Row]:
    """Settings changed one at a time."""
    none, quarter = Schedule(), Schedule(steps // 4)
    rows = []
    for size in (128, 64):
        for sink in (0, 2):
            mask = replace(_radial(0.2, size), sink_frames=sink)
            rows += [Row("sink", mask, dense) for dense in (none, quarter)]
        for blocks in (1, 2):
            for dense in (none, quarter) if size == 128 else (quarter,):
                schedule = replace(dense, dense_blocks=blocks)
                rows.append(Row("dense blocks", _radial(0.2, size), schedule))
        for dense in (none, quarter):
            schedule = replace(dense, dense_last_steps=1)
            rows.append(Row("dense last step", _radial(0.2, size), schedule))
    for name in STATIC:
        mask = Mask(name, *_budgets(layout)[1], sink_frames=1)
        rows += [Row("sink of other masks", mask, dense) for dense in (none, quarter)]
    return rows


def straddling_rows(steps: int) -> list[Row]:
    """Where frames start inside blocks, the released mask loses blocks and the node's does not."""
    quarter = Schedule(steps // 4)
    cases = [(0.2, Schedule()), (2.0, Schedule()), (0.2, quarter)]
    cases.append((0.2, replace(quarter, dense_last_steps=1)))
    return [
        Row("frames that begin inside blocks", Mask(method, 128, None, decay, 1), schedule)
        for decay, schedule in cases
        for method in ("radial", "released")
    ]


def _radial(decay: float, block_size: int) -> Mask:
    return Mask("radial", block_size, decay=decay, sink_frames=1)


def _budgets(layout: VideoLayout) -> list[tuple[int, int]]:
    """(block size, key blocks of a query block), the average of each radial mask."""
    budgets = [(64, int(LOW_BUDGET * (layout.tokens // 64)))]
    for decay, size in BUDGETS:
        kept = _radial(decay, size).block_map(layout)
        budgets.append((size, round(kept.sum().item() / len(kept))))
    return budgets
