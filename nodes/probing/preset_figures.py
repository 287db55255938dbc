"""What the node's presets come to, from what the probe measured."""

from ...radial_core.measurements import Measurements
from ...radial_core.search import Setting, setting
from ..inputs.presets import PRESETS, settings_of
from .advice import describe


def preset_figures(m: Measurements) -> list[str]:
    """A line on each preset, after one on what they are for; none without adaptive lists.

    Where a preset's budget was not measured, its figures lie between those of the next ones.
    """
    if not m.budgets:
        return []
    measured = describe(setting(m, m.current, m.dense_blocks))
    block_size = m.pattern(m.current).block_size
    lines = [
        f"The presets with {measured}, as measured; dense steps, and other budgets of early steps, "
        "are not in their figures:"
    ]
    for name in PRESETS:
        budget = settings_of(name, block_size).adaptive_budget
        lines.append(f"{name}{_budget(budget)}: {_figures(m, budget)}.")
    return lines


def _budget(budget: float | None) -> str:
    return "" if budget is None else f" (budget {budget:g})"


def _figures(m: Measurements, budget: float | None) -> str:
    """budget: None for radial lists."""
    if budget is None or budget in m.budgets:
        one = _setting(m, budget)
        return f"error {one.error:.2g}, speed-up of a step {one.speedup:.2g}x"
    less = max((each for each in m.budgets if each < budget), default=None)
    more = min((each for each in m.budgets if each > budget), default=None)
    if less is None:
        near = _setting(m, more)
        return f"error above {near.error:.2g}, speed-up of a step above {near.speedup:.2g}x"
    if more is None:
        near = _setting(m, less)
        return f"error below {near.error:.2g}, speed-up of a step below {near.speedup:.2g}x"
    low, high = _setting(m, more), _setting(m, less)
    return (
        f"error {low.error:.2g} to {high.error:.2g}, "
        f"speed-up of a step {low.speedup:.2g}x to {high.speedup:.2g}x"
    )


def _setting(m: Measurements, budget: float | None) -> Setting:
    return setting(m, m.current if budget is None else m.adaptive(budget), m.dense_blocks)
