"""The picture of lists per head: each way against radial lists, in every training."""

import matplotlib.pyplot as plt
from drawing import BLACK, BLUE, GREEN, ORANGE, PURPLE, save, tidy
from list_ways import RADIAL

TRAININGS = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (PURPLE, "D"))  # colour, marker
INCHES = 8.5, 0.28  # wide; high for each way


def proportions(found: dict, name: str):
    """A panel for each number of dense steps, and in it a line for each way and budget."""
    steps = next(iter(found["trainings"].values()))["steps"]
    panels = {}  # dense steps -> way -> its cases
    for case in sorted(found["cases"], key=lambda case: case["dense_steps"]):
        ways = panels.setdefault(case["dense_steps"], {})
        if case["lists"] != RADIAL:
            way = f"{case['lists']}: {found['densities'][format(case['budget'], 'g')]:.0%}"
            ways.setdefault(way, []).append(case)
    panels = {dense: ways for dense, ways in panels.items() if ways}
    heights = [len(ways) + 1 for ways in panels.values()]
    figure, grid = plt.subplots(
        *(len(panels), 1),
        figsize=(INCHES[0], INCHES[1] * sum(heights) + 1.5),
        height_ratios=heights,
        layout="constrained",
        sharex=True,
        squeeze=False,
    )
    for axes, (dense, ways) in zip(grid.flat, panels.items(), strict=True):
        _panel(axes, ways, list(found["trainings"]))
        axes.set_title(f"{dense} of {steps} steps dense", fontsize="medium", loc="left")
    grid.flat[-1].set_xlabel("PSNR against radial lists with the same seeds, dB")
    marks = [plt.Line2D([], [], color=x, marker=y, linestyle="") for x, y in TRAININGS]
    marks = marks[: len(found["trainings"])]
    labels = [f"training {number}" for number in found["trainings"]]
    title = "the share is that of the block map that is kept; bars: standard error of the seeds"
    style = {"loc": "outside lower center", "ncols": 4, "fontsize": 8, "title_fontsize": 8}
    figure.legend(marks, labels, title=title, **style)
    save(figure, name)


def _panel(axes, ways: dict[str, list[dict]], trainings: list[str]):
    """The best way on top."""
    order = sorted(ways, key=lambda way: _mean_difference(ways[way]))
    for place, way in enumerate(order):
        for case in ways[way]:
            number = trainings.index(str(case["training"]))
            colour, marker = TRAININGS[number % len(TRAININGS)]
            height = place + 0.15 * ((len(trainings) - 1) / 2 - number)  # bars don't overlap
            error = {"xerr": case["diff_se"], "capsize": 2, "elinewidth": 1}
            axes.errorbar(
                case["diff_to_radial"], height, color=colour, marker=marker, markersize=5, **error
            )
    axes.axvline(0, color=BLACK, linewidth=1)
    axes.set_yticks(range(len(order)), order, fontsize=8)
    axes.set_ylim(-0.6, len(order) - 0.4)
    tidy(axes)


def _mean_difference(cases: list[dict]) -> float:
    return sum(case["diff_to_radial"] for case in cases) / len(cases)
