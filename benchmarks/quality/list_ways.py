"""The ways to sample that proportions.py compares: which lists, how many blocks and dense steps.

Lists are chosen in some steps of a run (LOOKS says which, and how), in each call, or before it.
"""

from dataclasses import dataclass

import per_head

from radial_core.adaptive.choice import most_attended

BUDGETS = (1.0, 0.75, 0.67, 0.5)
QUARTER, TENTH, HALF, NONE = 0.25, 0.1, 0.5, 0.0  # of the steps

RADIAL, ADAPTIVE, CALIBRATED, SPATIAL = "radial", "adaptive", "calibrated", "spatial"
LOOKS_ONCE, LOOKS_LATER = "adaptive, looks once", "adaptive, looks again halfway too"
EARLIER, MEAN = "adaptive, looks in the last dense step", "adaptive, by the mean of three steps"
ANEW, SOL = "pooled scores of 4 cells, anew at each step", "sol_attn's rule"


@dataclass(frozen=True)
class Looks:
    """How and when lists are chosen that aren't chosen in each call.

    again: the shares of the steps at which they are chosen again, if those steps are sparse.
    dense, sparse: before that, in so many of the last dense steps and of the first sparse ones.
    """

    scores: per_head.Scores = per_head.mass
    choice: per_head.Choice = most_attended
    again: tuple[float, ...] = (QUARTER,)
    dense: int = 0
    sparse: int = 1


OTHER_TIMES = {
    LOOKS_ONCE: Looks(again=()),
    LOOKS_LATER: Looks(again=(QUARTER, HALF)),
    MEAN: Looks(again=(), dense=2),
    EARLIER: Looks(again=(), dense=1, sparse=0),
}
OTHER_CHOICES = {
    "adaptive, half of the mass by distance": Looks(per_head.steadied(0.5)),
    "adaptive, all queries": Looks(per_head.mass_of_all),
    "adaptive, pooled scores": Looks(per_head.pooled(1)),
    "adaptive, pooled scores of 4 cells": Looks(per_head.pooled(4)),
    "adaptive, heads share by mass": Looks(choice=per_head.shared_by_mass),
    "adaptive, heads share for equal recall": Looks(choice=per_head.shared_by_recall),
}
LOOKS = {ADAPTIVE: Looks(), **OTHER_TIMES, **OTHER_CHOICES}


@dataclass(frozen=True)
class Way:
    """A way to sample. budget: blocks kept, as a share of radial's. dense: share of the steps."""

    lists: str
    budget: float = 1.0
    dense: float = QUARTER
    loss: bool = False  # whether to measure the validation loss too

    def __str__(self):
        return f"{self.lists}, budget {self.budget:g}, {self.dense:.0%} dense"


def ways() -> list[Way]:
    """The most important first: time may be up before the others' turn. Radial before the rest."""
    found = []
    for dense in (QUARTER, TENTH, HALF):
        loss = dense == QUARTER
        found.append(Way(RADIAL, dense=dense, loss=loss))
        found += [Way(ADAPTIVE, budget, dense, loss) for budget in BUDGETS]
    found += [Way(LOOKS_ONCE, budget, TENTH) for budget in BUDGETS]
    found += [Way(lists, dense=TENTH) for lists in (LOOKS_LATER, MEAN)]
    found += [Way(lists) for lists in (LOOKS_LATER, MEAN, EARLIER)]
    found += [Way(lists, loss=True) for lists in (ANEW, SOL, CALIBRATED, SPATIAL, *OTHER_CHOICES)]
    found.append(Way(ANEW, 0.67))
    return found + [Way(lists, dense=NONE) for lists in (RADIAL, ADAPTIVE, LOOKS_ONCE, LOOKS_LATER)]
