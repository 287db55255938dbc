"""Steps that a step cache skipped: it repeated an earlier output of the model, or made one of it.

A cache may answer for the model (LazyCache), for its blocks (EasyCache, TeaCache, MagCache,
cache-dit), or for all blocks but the first ones, by which it decides (First Block Cache).
"""

from collections import Counter
from collections.abc import Mapping
from itertools import pairwise

LISTED = 10  # steps, or series of steps, that are listed one by one


def skipped_calls(
    not_called: Mapping[int, int], passes: Mapping[tuple[int, int], int]
) -> Counter[int]:
    """How many calls of the model were skipped in each step.

    not_called: step -> how often the sampler asked and the model was not called. passes: (step,
    blocks that ran in a call of the model) -> such calls. A call that ran at most half as many
    blocks as another is skipped. No node but a cache leaves out so many.
    """
    skipped = Counter(not_called)
    most = max((blocks for _, blocks in passes), default=0)
    for (step, blocks), number in passes.items():
        if 2 * blocks <= most and most:
            skipped[step] += number
    return skipped


def skipped_steps(steps: list[dict]) -> dict[str, list[int]]:
    """The numbers of the steps in which no block ran, and of those that were skipped in part.

    In part: in some calls of the model, such as that for the negative prompt, or in most blocks.
    steps: as `Record.read` has them.
    """
    skipped = [step for step in steps if step["skipped_calls"]]
    return {
        "skipped_steps": [step["step"] for step in skipped if not step["blocks"]],
        "partly_skipped_steps": [step["step"] for step in skipped if step["blocks"]],
    }


def skipped_text(run: dict) -> str | None:
    """Which steps were skipped; None if none was."""
    totals = run["totals"]
    whole, part, steps = (totals[key] for key in ("skipped_steps", "partly_skipped_steps", "steps"))
    if not whole and not part:
        return None
    text = f"{len(whole or part):,} of {steps:,} steps skipped"
    if not whole:
        return f"{text} in part by a step cache{_listed(part)}"
    text = f"{text} by a step cache{_listed(whole)}"
    return f"{text}, and {len(part):,} in part{_listed(part)}" if part else text


def _listed(steps: list[int]) -> str:
    """[3, 5, 6, 7] -> ": 3, 5 to 7"."""
    ends = [i for i, (step, after) in enumerate(pairwise(steps), 1) if after != step + 1]
    series = [steps[i:j] for i, j in pairwise([0, *ends, len(steps)])]
    if len(series) > LISTED:
        return f", from {steps[0]} to {steps[-1]}"
    said = (each if len(each) < 3 else [f"{each[0]} to {each[-1]}"] for each in series)
    return ": " + ", ".join(str(step) for each in said for step in each)
