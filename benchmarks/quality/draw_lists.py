"""The picture of lists per head: PSNR against the kept share, a line for each method."""

import matplotlib.pyplot as plt
from drawing import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, YELLOW, save, tidy

METHODS = {  # the lists -> colour, marker
    "radial": (BLACK, "D"),
    "adaptive": (BLUE, "o"),
    "adaptive, all queries": (SKY, "o"),
    "adaptive, looks in the last dense step": (SKY, "<"),
    "adaptive, pooled scores": (ORANGE, "v"),
    "adaptive, pooled scores of 4 cells": (ORANGE, "^"),
    "pooled scores of 4 cells, anew at each step": (RED, "^"),
    "sol_attn's rule": (YELLOW, "h"),
    "calibrated": (PURPLE, "X"),
    "adaptive, heads share by mass": (GREY, "P"),
    "adaptive, heads share for equal recall": (GREY, "*"),
    "spatial": (GREEN, "s"),
}


def proportions(found: dict, name: str):
    """With a quarter of the steps dense, the trainings side by side."""
    trainings = sorted(found["trainings"])
    size = 1.5 + 5 * len(trainings), 6.2
    figure, every = plt.subplots(1, len(trainings), figsize=size, layout="constrained", sharey=True)
    for axes, training in zip([every] if len(trainings) == 1 else every, trainings, strict=True):
        about = found["trainings"][training]
        rows = [row for row in found["cases"] if row["training"] == int(training)]
        _methods(axes, rows, found["densities"], about["steps"] // 4)
        axes.set(
            title=f"training {training}: dense loss {about['dense_val_loss']:.3f}",
            xlabel="kept share of the block map",
        )
        tidy(axes)
        axes.label_outer()
    axes.figure.supylabel("PSNR with the dense video of the same seed, dB", fontsize="medium")
    handles, labels = axes.get_legend_handles_labels()
    bars = "bars: standard error of the difference to radial"
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, title=bars)
    save(figure, name)


def _methods(axes, rows: list[dict], densities: dict[str, float], dense_steps: int):
    rows = [row for row in rows if row["dense_steps"] == dense_steps]
    for lists, (colour, marker) in METHODS.items():
        points = sorted(
            (densities[f"{row['budget']:g}"], row["psnr"], row["diff_se"])
            for row in rows
            if row["lists"] == lists
        )
        if points:
            style = {"color": colour, "marker": marker, "capsize": 2, "label": lists}
            edge = BLACK if colour == YELLOW else colour
            axes.errorbar(*zip(*points, strict=True), markeredgecolor=edge, **style)
