"""The sets of ways to sample that front.py compares.

In each the most important come first: time may be up before the others' turn.
"""

from dataclasses import replace

from front_attention import GIVE_BACK
from front_ways import (
    AUTHORS,
    BY_MASS,
    DENSE,
    EARLY,
    LAST,
    LATE,
    QUARTER,
    RADIAL,
    RELEASED,
    REPAIR,
    Way,
    adaptive,
    both,
    cached,
    of,
    of_preset,
    repaired,
    sol,
)
from lab import node_presets

FASTER = 0.04, 0.33, 1.5  # as the preset has it, for ways in which one thing is changed


def front() -> list[Way]:
    """Dense steps and budgets against what ComfyUI itself has. Nothing is given back."""
    found = [AUTHORS, *(of(dense, 1.0, lists=RADIAL) for dense in (0.1, 0.5))]
    found += [adaptive(QUARTER, budget) for budget in (1.0, 0.67, 0.5)]
    found += [adaptive(0.1, budget) for budget in (1.0, 0.67)]
    found += [adaptive(0.1, 0.67, early) for early in (1.5, 2.0)]
    found += [adaptive(0.1, 1.0, 1.5), adaptive(LAST, 0.67, 2.0)]
    found += [adaptive(0.5, budget) for budget in (1.0, 0.67)]
    found += [of(0.1, (0.25, 2.0), (0.5, 1.0), 0.5), of(0.25, (0.5, 1.0), 0.67)]
    found += [of(0.25, (0.5, 1.5), 0.5), of(0.25, (0.6, 0.67), 1.0), of(0.4, (0.6, 1.5), 1.0)]
    found += both(*(cached(DENSE, share) for share in ("50%", "67%")))
    found += both(*(replace(DENSE, steps=share) for share in (0.5, 0.33)))
    found += [replace(DENSE, eight_bit=True), adaptive(0.1, 0.5, 1.0, eight_bit=True)]
    found += [sol(), cached(adaptive(QUARTER), "50%")]
    found += [cached(adaptive(0.1, 0.67, 1.5), share) for share in ("50%", "67%")]
    found += [replace(adaptive(QUARTER, 0.67), depth=x) for x in (EARLY, LATE, BY_MASS)]
    found += [adaptive(0.5, last=LAST), adaptive(0.6), sol(0.5)]
    return found + both(cached(DENSE, "36%"), replace(DENSE, steps=0.64))


def given_back() -> list[Way]:
    """What stands for the blocks that are not kept."""
    kept = [name for name in GIVE_BACK if name.startswith("repair ")]
    found = [AUTHORS, adaptive(QUARTER), adaptive(QUARTER, 0.5), repaired(AUTHORS)]
    found += [replace(adaptive(QUARTER), give_back=name) for name in GIVE_BACK if name not in kept]
    found += [repaired(adaptive(QUARTER, budget)) for budget in (0.5, 0.67, 0.33)]
    ways = adaptive(QUARTER, 0.5), adaptive(*FASTER)
    return found + [replace(way, give_back=name) for name in kept for way in ways]


def presets() -> list[Way]:
    """The node's, and what else was tried with the repair."""
    found = [AUTHORS, *(of_preset(each) for each in node_presets().values())]
    found += [cached(repaired(adaptive(*each)), "50%") for each in ((QUARTER, 0.5), FASTER)]
    found += [repaired(adaptive(QUARTER, 0.5))]
    found += [repaired(adaptive(0.5)), repaired(adaptive(QUARTER)), sol()]
    found += [repaired(adaptive(dense, 0.67)) for dense in (0.5, 0.45, 0.4)]
    found += [repaired(adaptive(0.5, 0.33)), repaired(of(0.5, (0.75, 1.0), 0.33))]
    found += [repaired(of(0.25, (0.5, 1.5), 0.5)), repaired(of(0.2, (0.5, 1.0), 0.33))]
    found += [repaired(of(0.25, (0.5, 0.67), 0.33))]
    found += [cached(repaired(of(0.25, (0.5, 1.0), 0.33)), "50%")]
    found += [repaired(of(0.16, (0.4, 1.5), 0.33)), repaired(adaptive(0.1))]
    found += [repaired(adaptive(0.1, 0.67, 1.5)), repaired(of(0.1, (0.25, 2.0), (0.5, 1.0), 0.5))]
    found += [repaired(adaptive(0.1, 0.5, early)) for early in (2.0, 1.5, 1.0)]
    found += [repaired(adaptive(0.1, 0.33, 1.5)), repaired(of(0.1, (0.5, 1.5), 0.33))]
    found += [repaired(of(0.1, (0.4, 2.0), 0.33)), repaired(of(0.1, (0.5, 0.75), 0.25))]
    found += [repaired(adaptive(LAST, 0.67, 2.0)), repaired(adaptive(LAST, 0.25, 2.0))]
    found += [repaired(of(LAST, (0.5, 1.0), 0.25)), repaired(of(LAST, (0.4, 1.0), 0.33))]
    found += [repaired(of(0.0, (0.25, 1.0), 1.0)), adaptive(0.1, 0.67, 1.5)]
    return [*found, replace(repaired(adaptive(QUARTER, 0.5)), eight_bit=True)]


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
    found += [adaptive(QUARTER), repaired(adaptive(QUARTER, 0.5)), repaired(adaptive(*FASTER))]
    longer = of(LAST, 1.0, lists=RADIAL), adaptive(LAST, 0.5), adaptive(*FASTER)
    longer = [replace(way, decay=1.0, dense_blocks=1) for way in longer]
    return [*found, longer[0], *(replace(way, give_back=REPAIR) for way in longer[1:])]


SETS = {
    "front": front,
    "presets": presets,
    "given back": given_back,
    "rows": rows,
    "straddling": straddling,
    "lengths": lengths,
}


def preset_of(way: Way) -> str | None:
    """The node's preset that samples so."""
    named = {of_preset(preset): name for name, preset in node_presets().items()}
    return named.get(way)


def size_of(which: str, size):
    """That of the videos of a set. A frame of 15 x 30 tokens is not whole blocks of 16."""
    return replace(size, height=30, width=60) if which == "straddling" else size
