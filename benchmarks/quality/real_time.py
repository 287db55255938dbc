"""Seconds that a real model takes in a way that the lab samples: from measured passes.

The passes are those of Wan 2.1 14B, 69 frames, 768p, in ../results/end_to_end-h200.json, on one
H200. A run there has 50 steps of two passes each. Where the lab runs a share of its steps in some
way, so does the real model. Passes at other budgets are on the line through the measured ones. What
the residual repair adds is in repair-h200.json. The time of other ways to give back is not in.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from front_ways import AUTHORS, REPAIR, SOL, Way
from lab import record

CASE, MACHINE = "wan2.1-14b-69f-768p", "h200"
BUDGETS = (1.0, 0.67)  # at which passes with adaptive lists were measured
STEPS, BRANCHES = 50, 2  # of that run
BLOCKS, DENSE_BLOCKS = 40, 1 / 40  # of that model; the share of them that is dense


@dataclass(frozen=True)
class Passes:
    """Seconds of a forward pass. sparse: of adaptive lists with budget 0, and what budget 1 adds.

    ours, ours_8bit: dense, by this pack's kernels. comfyui: dense, as ComfyUI comes. sol: by
    ComfyUI's own sparse attention. look: what choosing lists adds to a pass, repair: what the
    residual repair adds to a sparse one. forwards: passes in a run.
    """

    comfyui: float
    ours: float
    ours_8bit: float
    sparse: tuple[float, float]
    sparse_8bit: tuple[float, float]
    sol: float
    look: float
    repair: float
    forwards: int

    def of(self, way: Way, budget: float | None) -> float:
        """Seconds of a pass. budget: blocks kept, as a share of those with the authors' settings;
        None for a dense one.
        """
        if budget is None:
            ours = self.ours_8bit if way.eight_bit else self.ours
            return self.comfyui if way.comfyui_dense else ours
        if way.lists == SOL:
            return self.sol
        start, slope = self.sparse_8bit if way.eight_bit else self.sparse
        return start + slope * budget + (self.repair if way.give_back == REPAIR else 0)

    @property
    def without_attention(self) -> float:
        """Linear layers, norms and all else: a pass with budget 0, less its dense blocks."""
        return (self.sparse[0] - DENSE_BLOCKS * self.ours) / (1 - DENSE_BLOCKS)


def cost(way: Way, steps: Iterable[tuple[float | None, float]], usual: int, looks: int) -> dict:
    """Seconds of a run, and what attention and choosing lists take of them, as a share of what they
    take with the authors' settings.

    steps: of each step that ran, the budget (see `Passes.of`; None if it was dense), and the share
    of the layers that are dense in any case. usual: the number of steps of a whole run. looks: the
    steps in which lists were chosen.
    """
    times, seconds = passes(), 0.0
    attention = looks * BRANCHES * times.look
    for budget, dense_layers in steps:
        step = times.of(way, budget)
        if budget is not None and dense_layers:
            step = dense_layers * times.of(way, None) + (1 - dense_layers) * step
        seconds += step / usual * times.forwards
        attention += (step - times.without_attention) / usual * times.forwards
    return {
        "seconds_estimate": round(seconds + looks * BRANCHES * times.look, 1),
        "attention_share": round(attention / authors_attention(), 4),
    }


@cache
def authors_attention() -> float:
    """Seconds of self-attention in a run with the authors' settings: 12 of 50 steps dense."""
    times, (first, _) = passes(), AUTHORS.stretches
    dense, sparse = (times.of(AUTHORS, budget) - times.without_attention for budget in (None, 1.0))
    share = int(first.until * STEPS) / STEPS
    return times.forwards * (share * dense + (1 - share) * sparse)


@cache
def passes() -> Passes:
    case = next(each for each in _cases("end_to_end") if each["name"] == CASE)
    return Passes(
        comfyui=case["dense_s"],
        ours=case["dense_fastest_s"],
        ours_8bit=case["dense_8bit_s"],
        sparse=_line(case["radial_adaptive_s"], case["adaptive_067_s"]),
        # Radial and adaptive lists of one length take the same time, within 1 %.
        sparse_8bit=_line(case["radial_8bit_s"], case["adaptive_067_8bit_s"]),
        sol=case["core_sparse_s"],
        look=case["look_s_adaptive_067"],
        repair=_repair(case["tokens"]),
        forwards=STEPS * BRANCHES,
    )


def _cases(name: str) -> list[dict]:
    path = record.RESULTS / f"{name}-{MACHINE}.json"
    return json.loads(path.read_text(encoding="utf-8"))["cases"]


def _repair(tokens: int) -> float:
    """Seconds in all sparse blocks of a pass, from a call of another length."""
    (call,) = _cases("repair")
    sparse_blocks = BLOCKS * (1 - DENSE_BLOCKS)
    return (call["fit_ms"] + call["apply_ms"]) / 1000 * tokens / call["tokens"] * sparse_blocks


def _line(one: float, fewer: float) -> tuple[float, float]:
    """Seconds at budget 0, and what budget 1 adds, from those at the two BUDGETS."""
    slope = (one - fewer) / (BUDGETS[0] - BUDGETS[1])
    return one - slope * BUDGETS[0], slope
