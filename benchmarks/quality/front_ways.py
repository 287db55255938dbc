"""A way to sample: a run is divided into stretches of steps. front_sets.py says which there are."""

from dataclasses import dataclass, replace

RADIAL, ADAPTIVE, SOL, RELEASED = "radial", "adaptive", "sol_attn's rule", "radial as released"
QUARTER = 0.25  # of the steps: after it the pack looks again
LAST = 1 / 30  # one step of the lab's
SOL_DENSE = 0.2  # the default of ComfyUI's node
# Blocks kept of each layer: more in the first ones, in the last ones, or where attention is spread.
EARLY, LATE, BY_MASS = "more in early layers", "more in late layers", "layers share by mass"
REPAIR = "residual repair"
# EasyCache's thresholds: at these it skipped about so much of the steps in caches.py.
EASYCACHE = {"36%": 0.0455, "50%": 0.123, "67%": 1.1}


@dataclass(frozen=True)
class Stretch:
    """Steps with the same attention. until: the share of the steps at which it ends.

    budget: blocks kept, as a share of those of the radial mask; None for dense. At the beginning of
    each stretch with adaptive lists, heads choose theirs.
    """

    until: float
    budget: float | None


@dataclass(frozen=True)
class Way:
    """A way to sample.

    lists: of the steps that are not dense. sink_frames, decay: of the radial mask that says how
    many blocks they keep. dense_blocks: the first layers, dense in all steps. eight_bit: dense
    steps run the pack's 8-bit kernel, and in the rest q, k and v are rounded to 8 bits.
    comfyui_dense: for the time, dense steps run ComfyUI's default attention. give_back: what
    stands for the blocks that are not kept, see rest.py. steps: the share of the usual number of
    them. cache: EasyCache's threshold.
    """

    stretches: tuple[Stretch, ...]
    lists: str = ADAPTIVE
    sink_frames: int = 1
    decay: float = 0.2
    dense_blocks: int = 0
    depth: str | None = None
    eight_bit: bool = False
    comfyui_dense: bool = False
    give_back: str | None = None
    steps: float = 1.0
    cache: float | None = None

    @property
    def name(self) -> str:
        parts = [self._attention()]
        if self.sink_frames != 1:
            parts.append(f"{self.sink_frames} sink frames")
        if self.decay != 0.2:
            parts.append(f"decay {self.decay:g}")
        if self.dense_blocks:
            parts.append(f"dense layers: {self.dense_blocks}")
        parts += [part for part in (self.depth, self.give_back) if part]
        if self.eight_bit:
            parts.append("8 bit")
        if self.steps < 1:
            parts.append(f"{1 - self.steps:.0%} fewer steps")
        if self.cache is not None:
            share = {threshold: share for share, threshold in EASYCACHE.items()}[self.cache]
            parts.append(f"EasyCache {share}")
        return ", ".join(parts)

    def _attention(self) -> str:
        if self.is_dense:
            return "ComfyUI's dense" if self.comfyui_dense else "dense"
        parts, start = [], 0.0
        for stretch in self.stretches:
            if stretch.budget is None and stretch.until > start:
                end = "" if start == 0 else " in the end"
                parts.append(f"{stretch.until - start:.0%} dense{end}")
            elif stretch.until < 1 and stretch != self.sparse[-1]:
                parts.append(f"x{stretch.budget:g} until {stretch.until:.0%}")
            elif stretch.budget != 1 or len(self.sparse) > 1:
                parts.append(f"x{stretch.budget:g}")
            start = stretch.until
        return f"{self.lists}: {', '.join(parts)}" if parts else self.lists

    @property
    def sparse(self) -> list[Stretch]:
        return [stretch for stretch in self.stretches if stretch.budget is not None]

    @property
    def is_dense(self) -> bool:
        return not self.sparse


def of(dense: float, *sparse, last: float = 0.0, **more) -> Way:
    """A way with so many of the first steps dense, and of the last ones.

    sparse: budgets, each with the share of the steps at which it ends; the last one goes on to the
    end and may be a mere budget.
    """
    found = [Stretch(dense, None)] if dense else []
    for each in sparse:
        until, budget = each if isinstance(each, tuple) else (1 - last, each)
        found.append(Stretch(until, budget))
    if last:
        found.append(Stretch(1.0, None))
    return Way(tuple(found), **more)


def adaptive(dense: float, budget: float = 1.0, early: float | None = None, **more) -> Way:
    """As the node has it: one look, or a second one after a quarter of the steps.

    early: the budget until then.
    """
    if dense < QUARTER:
        return of(dense, (QUARTER, early or budget), budget, **more)
    return of(dense, budget, **more)


DENSE = Way((Stretch(1.0, None),))
AUTHORS = of(QUARTER, 1.0, lists=RADIAL)  # what all others are compared with


def both(*dense: Way) -> list[Way]:
    """Dense ways by this pack's kernels, and as ComfyUI comes."""
    return [each for way in dense for each in (way, replace(way, comfyui_dense=True))]


def repaired(way: Way) -> Way:
    return replace(way, give_back=REPAIR)


def cached(way: Way, share: str) -> Way:
    """With EasyCache, which skips about this share of the steps."""
    return replace(way, cache=EASYCACHE[share])


def sol(dense: float = SOL_DENSE) -> Way:
    return of(dense, 1.0, lists=SOL, comfyui_dense=True)


def of_preset(preset) -> Way:
    """A preset of the node: a NodePreset."""
    last, budgets = preset.dense_last_steps * LAST, [preset.budget]
    if preset.early is not None:
        budgets.insert(0, (preset.until, preset.early))
    return repaired(of(preset.dense, *budgets, last=last))
