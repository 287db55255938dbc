"""The ways to sample that front.py compares. A run is divided into stretches of steps."""

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
    them. cache: EasyCache's threshold. preset: of the node, that samples so.
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
    preset: str | None = None

    @property
    def name(self) -> str:
        """Without the preset, which is said beside it."""
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


def ways() -> list[Way]:
    """The most important first: time may be up before the others' turn."""
    found = [AUTHORS, *(of(dense, 1.0, lists=RADIAL) for dense in (0.1, 0.5))]
    found += [adaptive(QUARTER, budget) for budget in (1.0, 0.67, 0.5)]
    found += [adaptive(0.1, budget) for budget in (1.0, 0.67)]
    found += [adaptive(0.1, 0.67, early) for early in (1.5, 2.0)]
    found += [adaptive(0.1, 1.0, 1.5), adaptive(LAST, 0.67, 2.0)]
    found += [adaptive(0.5, budget) for budget in (1.0, 0.67)]
    found += [of(0.1, (0.25, 2.0), (0.5, 1.0), 0.5), of(0.25, (0.5, 1.0), 0.67)]
    found += [of(0.25, (0.5, 1.5), 0.5), of(0.25, (0.6, 0.67), 1.0), of(0.4, (0.6, 1.5), 1.0)]
    found += both(*(replace(DENSE, cache=EASYCACHE[share]) for share in ("50%", "67%")))
    found += both(*(replace(DENSE, steps=share) for share in (0.5, 0.33)))
    found += [replace(DENSE, eight_bit=True), adaptive(0.1, 0.5, 1.0, eight_bit=True)]
    found += [sol(), replace(adaptive(QUARTER), cache=EASYCACHE["50%"])]
    found += [replace(adaptive(0.1, 0.67, 1.5), cache=EASYCACHE[x]) for x in ("50%", "67%")]
    found += [replace(adaptive(QUARTER, 0.67), depth=x) for x in (EARLY, LATE, BY_MASS)]
    found += [adaptive(0.5, last=LAST), adaptive(0.6), sol(0.5)]
    return found + both(replace(DENSE, cache=EASYCACHE["36%"]), replace(DENSE, steps=0.64))


def both(*dense: Way) -> list[Way]:
    """Dense ways by this pack's kernels, and as ComfyUI comes."""
    return [each for way in dense for each in (way, replace(way, comfyui_dense=True))]


def given_back() -> list[Way]:
    """What stands for the blocks that are not kept."""
    names = ("mean residual", "pooled rest", "pooled rest from half of the steps on", "first order")
    names += ("first order and repair",)
    names += ("residual repair, 64 rows", "residual repair, 256 rows")
    names += ("residual repair, all directions", "residual repair, ridge 0.02")
    names += ("residual repair, ridge 0.5",)
    found = [AUTHORS, adaptive(QUARTER), adaptive(QUARTER, 0.5), adaptive(0.1, 0.67, 1.5)]
    found += [repaired(adaptive(QUARTER, budget)) for budget in (1.0, 0.67, 0.5, 0.33)]
    found += [repaired(adaptive(0.1)), repaired(adaptive(0.1, 0.67, 1.5))]
    found += [repaired(adaptive(0.1, 0.5, 1.0)), repaired(adaptive(0.1, 0.5, 2.0))]
    found += [repaired(of(0.1, (0.25, 2.0), (0.5, 1.0), 0.5))]
    found += [repaired(of(0.25, (0.5, 1.5), 0.5)), repaired(of(0.25, (0.5, 1.0), 0.33))]
    found += [repaired(adaptive(LAST, 0.67, 2.0)), repaired(of(0.0, (0.25, 1.0), 1.0))]
    found += [repaired(adaptive(0.4, 0.67)), repaired(adaptive(0.5, 0.67))]
    found += [repaired(adaptive(0.5, 0.33)), repaired(AUTHORS)]
    found += [replace(adaptive(QUARTER), give_back=name) for name in names]
    found += [replace(adaptive(QUARTER, 0.5), give_back=name) for name in names[3:5]]
    found += [replace(repaired(adaptive(QUARTER, 0.5)), eight_bit=True)]
    found += [replace(repaired(adaptive(0.1, 0.67, 1.5)), cache=EASYCACHE["50%"])]
    return [*found, replace(repaired(adaptive(QUARTER)), cache=EASYCACHE["50%"])]


def presets() -> list[Way]:
    from lab import node_presets

    found = [AUTHORS, *(of_preset(*each) for each in node_presets().items())]
    balanced, faster = found[2:]
    kept = ("repair kept from the look", "repair fitted each 2 steps", "repair fitted each 4 steps")
    found += [replace(way, give_back=x, preset=None) for x in kept for way in (balanced, faster)]
    found += [adaptive(QUARTER, 0.5), adaptive(QUARTER), repaired(adaptive(QUARTER))]
    found += [replace(way, cache=EASYCACHE["50%"], preset=None) for way in (balanced, faster)]
    found += [repaired(adaptive(0.1, 0.5, 1.5)), sol(), repaired(adaptive(0.1, 0.33, 1.5))]
    return found


def of_preset(name: str, preset) -> Way:
    """A preset of the node, as a NodePreset."""
    last = preset.dense_last_steps * LAST
    way = adaptive(preset.dense, preset.budget, preset.early, last=last)
    return replace(way, give_back=REPAIR, preset=name)


def tried() -> list[Way]:
    names = ("residual repair, all directions", "plain repair", "plain repair, centred")
    names += ("plain repair, 256 rows", "plain repair, ridge 0.02", "plain repair, ridge 0.5")
    found = [AUTHORS, adaptive(QUARTER), repaired(adaptive(QUARTER))]
    found += [replace(adaptive(QUARTER), give_back=name) for name in names]
    found += [repaired(of(0.25, (0.5, early), 0.33)) for early in (0.67, 1.0)]
    found += [repaired(adaptive(QUARTER, x)) for x in (0.5, 0.33)]
    found += [repaired(of(0.1, (0.5, 1.5), 0.33)), repaired(of(0.1, (0.4, 2.0), 0.33))]
    found += [repaired(of(0.16, (0.4, 1.5), 0.33)), repaired(of(0.2, (0.5, 1.0), 0.33))]
    found += [repaired(adaptive(LAST, 0.33, 1.5)), repaired(of(LAST, (0.5, 1.0), 0.25))]
    found += [repaired(of(LAST, (0.4, 1.0), 0.33)), repaired(adaptive(LAST, 0.25, 2.0))]
    found += [repaired(of(0.1, (0.5, 0.75), 0.25)), repaired(adaptive(0.5))]
    found += [repaired(of(0.5, (0.75, 1.0), 0.33)), adaptive(0.5), repaired(adaptive(0.45, 0.67))]
    found += [replace(repaired(of(0.25, (0.5, 1.0), 0.33)), cache=EASYCACHE["50%"])]
    found += [replace(repaired(adaptive(LAST, 0.33, 1.5)), cache=EASYCACHE["50%"])]
    found += [replace(repaired(adaptive(QUARTER, 0.5)), eight_bit=True)]
    return found


def repaired(way: Way) -> Way:
    return replace(way, give_back=REPAIR)


def sol(dense: float = SOL_DENSE) -> Way:
    return of(dense, 1.0, lists=SOL, comfyui_dense=True)


def rows() -> list[Way]:
    """One thing changed at a time, with radial lists."""
    found = [AUTHORS]
    found += [replace(AUTHORS, sink_frames=sinks) for sinks in (0, 2)]
    found += [replace(AUTHORS, decay=decay) for decay in (0.5, 1.0)]
    found += [replace(AUTHORS, dense_blocks=blocks) for blocks in (1, 2)]
    return found + [of(QUARTER, 1.0, lists=RADIAL, last=last) for last in (LAST, 0.1)]


def straddling() -> list[Way]:
    """For frames that begin inside blocks."""
    found = [of(QUARTER, 1.0, lists=lists) for lists in (RADIAL, RELEASED)]
    found += [of(0.0, 1.0, lists=lists) for lists in (RADIAL, RELEASED)]
    return [*found, adaptive(QUARTER)]


def lengths() -> list[Way]:
    """For longer videos: decay, lists, and what the authors set for longer ones than trained."""
    found = [AUTHORS, *(replace(AUTHORS, decay=decay) for decay in (0.5, 1.0))]
    found += [adaptive(QUARTER), repaired(adaptive(QUARTER, 0.5))]
    found += [repaired(adaptive(LAST, 0.33, 1.5))]
    longer = of(LAST, 1.0, lists=RADIAL, decay=1.0, dense_blocks=1)
    found += [longer, replace(repaired(adaptive(LAST, 0.5)), decay=1.0, dense_blocks=1)]
    return [*found, replace(repaired(adaptive(LAST, 0.33, 1.5)), decay=1.0, dense_blocks=1)]


SETS = {"front": ways, "rows": rows, "straddling": straddling, "lengths": lengths}
SETS["given back"] = given_back
SETS["tried"] = tried
SETS["presets"] = presets


def size_of(which: str, size):
    """That of the videos of a set. A frame of 15 x 30 tokens is not whole blocks of 16."""
    return replace(size, height=30, width=60) if which == "straddling" else size
