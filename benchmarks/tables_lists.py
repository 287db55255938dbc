"""Tables of what the quality lab measured of lists per head."""

import math
from statistics import mean

from tables_format import NOT_MEASURED, markdown, measured_in_the_lab

RADIAL, ADAPTIVE = "radial", "adaptive"
BY_TIME = (  # ways that differ in when lists are chosen
    RADIAL,
    ADAPTIVE,
    "adaptive, looks once",
    "adaptive, looks again halfway too",
    "adaptive, by the mean of three steps",
    "adaptive, looks in the last dense step",
)


def quality_lists() -> str:
    """By the dense steps, and by when lists are chosen."""
    found = measured_in_the_lab("proportions")
    if found is None:
        return NOT_MEASURED
    steps = next(iter(found["trainings"].values()))["steps"]
    groups = [group for group in _groups(found) if group[0]["lists"] in BY_TIME]
    rows = [
        [f"{group[0]['dense_steps']} of {steps}", *_lists_and_kept(group[0], found)]
        + _of_trainings(group, found)
        for group in sorted(groups, key=_steps_lists_and_budget)
    ]
    head = ["dense first steps", "lists", "kept", *_head(found)]
    return markdown(head, rows)


def quality_lists_otherwise() -> str:
    """By how lists are chosen, and what they add to the loss; a quarter of the steps dense."""
    found = measured_in_the_lab("proportions")
    if found is None:
        return NOT_MEASURED
    quarter = next(iter(found["trainings"].values()))["steps"] // 4
    groups = [group for group in _groups(found) if group[0]["dense_steps"] == quarter]
    radial = {group[0]["lists"]: group for group in groups}[RADIAL]
    radial = {case["training"]: case for case in radial}
    rows = [
        [
            *_lists_and_kept(group[0], found),
            *_of_trainings(group, found),
            _worst_frame(group, radial),
            _loss(group),
        ]
        for group in groups
        if group[0]["lists"] not in BY_TIME[2:]
    ]
    head = ["lists", "kept", *_head(found), "worst frame", "validation loss"]
    return markdown(head, rows)


def _groups(found: dict) -> list[list[dict]]:
    """The same case of each training that has it, in the order in which they were run."""
    groups = {}
    for case in found["cases"]:
        groups.setdefault((case["lists"], case["budget"], case["dense_steps"]), []).append(case)
    return list(groups.values())


def _steps_lists_and_budget(group: list[dict]) -> tuple:
    case = group[0]
    return case["dense_steps"], BY_TIME.index(case["lists"]), -case["budget"]


def _lists_and_kept(case: dict, found: dict) -> list[str]:
    return [case["lists"], f"{found['densities'][format(case['budget'], 'g')]:.0%}"]


def _head(found: dict) -> list[str]:
    return [*(f"training {number}" for number in found["trainings"]), "mean"]


def _of_trainings(group: list[dict], found: dict) -> list[str]:
    """A cell for each training, and the mean: PSNR of radial lists, and of others the difference.

    The error of the mean is that of the seeds alone.
    """
    radial = group[0]["lists"] == RADIAL
    values = {
        str(case["training"]): (case["psnr"] if radial else case["diff_to_radial"], case["diff_se"])
        for case in group
    }
    cell = "{:.1f}".format if radial else _with_error
    cells = [cell(*values[name]) if name in values else "" for name in found["trainings"]]
    each, errors = zip(*values.values(), strict=True)
    return [*cells, cell(mean(each), math.hypot(*errors) / len(errors))]


def _with_error(value: float, error: float) -> str:
    return f"{_signed(value)} ± {error:.1f}"


def _signed(value: float) -> str:
    return f"{round(value, 1) + 0.0:+.1f}"  # not -0.0


def _worst_frame(group: list[dict], radial: dict[int, dict]) -> str:
    """Against radial lists, in the trainings that a case has."""
    if group[0]["lists"] == RADIAL:
        return ""
    return _signed(
        mean(case["worst_frame"] - radial[case["training"]]["worst_frame"] for case in group)
    )


def _loss(group: list[dict]) -> str:
    added = [case["val_loss_added"] for case in group if case["val_loss_added"] is not None]
    return f"{mean(added):+.4f}" if added else ""


TABLES = (quality_lists, quality_lists_otherwise)
