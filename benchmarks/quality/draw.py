"""Draws the lab's results from the files in benchmarks/results, and writes RESULTS.md.

    python benchmarks/quality/draw.py [GPU]

GPU: as in the names of the files, h100 by default. Draws only what was measured. Needs matplotlib.
"""

import json
import math
import sys
from pathlib import Path

import matplotlib.pyplot as plt
from draw_front import front as quality_front
from draw_lists import proportions
from drawing import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    YELLOW,
    save,
    tidy,
)
from lab import record
from table import LOOK_FIRST, complete, front, tables

REPORT = Path(__file__).with_name("RESULTS.md")
# (method, block size) -> label, colour, marker. None stands for any block size.
SERIES = {
    ("radial", 128): ("radial, block 128", BLUE, "o"),
    ("radial", 64): ("radial, block 64", SKY, "o"),
    ("sliding", None): ("sliding window", ORANGE, "s"),
    ("spatial", None): ("spatial only", GREEN, "^"),
    ("temporal", None): ("temporal only", PURPLE, "v"),
    ("tile", None): ("tile window", RED, "D"),
    ("mean_all", None): ("most attended in other videos", GREY, "P"),
    ("mean_heads", None): ("the same, a map a head", BLACK, "X"),
    ("oracle", None): ("most attended, chosen at each call", BLACK, "*"),
    ("sol", None): ("ComfyUI's sol_attn", YELLOW, "h"),
}
DASHED = ("oracle",)
SHARES = {0: ("none", GREY), 0.1: ("10 %", SKY), 0.25: ("25 %", BLUE), 0.5: ("50 %", BLACK)}
MEASURES = {
    "ssim": "SSIM with the dense video",
    "attention_error": "error of an attention call's output",
    "above_dense": "validation loss with the mask",
}


def compare(found: dict, name: str):
    about = found["sizes"]["lab"]
    rows = [row for row in found["cases"] if row["size"] == "lab" and "psnr" in row]
    rows = [row | {"above_dense": row["val_loss"] - about["dense_val_loss"]} for row in rows]
    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5.6), layout="constrained")
    _methods(left, rows, "psnr")
    left.set(
        title="Every step and block sparse",
        xlabel="kept share of the attention's work",
        ylabel="PSNR with the dense video of the same seed, dB",
    )
    left.legend(fontsize=9, loc="best", title=f"bars: standard error of {about['seeds']} seeds")
    _errors(left, rows, about["seeds"])
    _schedules(right, rows, about["steps"])
    right.set(
        title="With dense steps",
        xlabel="kept share of the attention's work, all steps and blocks",
        ylabel="PSNR, dB",
    )
    right.legend(fontsize=9, loc="upper left", title="dense first steps")
    save(figure, name)

    figure, axes = plt.subplots(1, 3, figsize=(14, 5.2), layout="constrained")
    for at, (key, title) in zip(axes, MEASURES.items(), strict=True):
        _methods(at, rows, key)
        at.set(title=title, xlabel="kept share of the attention's work")
    axes[-1].set_yscale("symlog", linthresh=5e-4)
    axes[-1].set(ylabel=f"above the dense model's {about['dense_val_loss']:.4f}")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=9)
    save(figure, f"{name}-more")


LABEL = {"fontsize": 9, "textcoords": "offset points", "xytext": (0, 3), "ha": "right"}


def _methods(axes, rows: list[dict], key: str):
    """Each method over its budgets, without dense steps and blocks."""
    for (method, size), (label, colour, marker) in SERIES.items():
        selected = _without_dense(rows, method, size)
        line = "--" if method in DASHED else "-"
        x, y = ([row[name] for row in selected] for name in ("kept_flops", key))
        style = {"marker": marker, "ls": line, "label": label, "ms": 7, "lw": 1.5}
        if selected:
            edge = BLACK if colour == YELLOW else "white"
            axes.plot(x, y, color=colour, markeredgecolor=edge, markeredgewidth=0.6, **style)
    tidy(axes)


def _errors(axes, rows: list[dict], seeds: int):
    """Error bars for the mean PSNRs that `_methods` draws, where a row has them."""
    for (method, size), (_, colour, _) in SERIES.items():
        for row in _without_dense(rows, method, size):
            if "psnr_std" in row:
                error = row["psnr_std"] / seeds**0.5
                at = (row["kept_flops"], row["psnr"], error)
                axes.errorbar(*at, color=colour, lw=1, alpha=0.5, zorder=1)


def _schedules(axes, rows: list[dict], steps: int):
    """All radial rows by their dense steps, with their Pareto front and the node's defaults."""
    for share, (label, colour) in SHARES.items():
        selected = [row for row in rows if row["mask"]["method"] == "radial"]
        selected = [row for row in selected if row["schedule"]["dense_steps"] == int(share * steps)]
        for size, marker in ((128, "o"), (64, "s")):
            x, y = _xy([row for row in selected if row["mask"]["block_size"] == size])
            style = {"label": f"{label}, block {size}", "marker": marker, "s": 34}
            if x:
                axes.scatter(x, y, color=colour, edgecolor="white", lw=0.5, zorder=3, **style)
    others = [row for row in rows if row["question"] in ("other masks", "most attended")]
    first = [row for row in others if row["mask"]["method"] in LOOK_FIRST]
    windows = [row for row in others if row["mask"]["method"] not in LOOK_FIRST]
    pooled = [row for row in rows if row["mask"]["method"] == "sol"]
    small = {"s": 26, "zorder": 2}
    axes.scatter(*_xy(windows), color=ORANGE, marker="x", label="windows, tiles", **small)
    axes.scatter(*_xy(first), color=PURPLE, marker="+", label="most attended", **small)
    if pooled:
        style = {"color": YELLOW, "edgecolor": BLACK, "lw": 0.6, "marker": "h", "s": 44}
        axes.scatter(*_xy(pooled), label="ComfyUI's sol_attn", zorder=3, **style)
    x, y = _xy(front(rows, ("radial",)))
    style = {"color": RED, "lw": 1.2, "zorder": 1, "drawstyle": "steps-post"}
    axes.plot(x, y, label="front of the radial ones", **style)
    for row in rows:
        if row["question"] == "the node's defaults":
            at = (row["kept_flops"], row["psnr"])
            axes.scatter(*at, marker="*", s=260, color=RED, edgecolor="white", zorder=4)
            style = {"textcoords": "offset points", "va": "center"}
            axes.annotate("the node's defaults", at, xytext=(11, 0), **style)
    tidy(axes)


def _xy(rows: list[dict]) -> tuple[list[float], list[float]]:
    return [row["kept_flops"] for row in rows], [row["psnr"] for row in rows]


def _without_dense(rows: list[dict], method: str, size: int | None) -> list[dict]:
    """A method's rows without dense steps and blocks, sorted by work."""
    selected = [row for row in rows if _is_of(row, method, size) and not _dense(row)]
    selected = [row for row in selected if not row["question"].startswith("sink")]
    return sorted(selected, key=lambda row: row["kept_flops"])


def _is_of(row: dict, method: str, size: int | None) -> bool:
    return row["mask"]["method"] == method and size in (None, row["mask"]["block_size"])


def _dense(row: dict) -> bool:
    return any(row["schedule"].values())


def train(found: dict, name: str):
    curve, decay = found["cases"], found["decay"]
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 4.4), layout="constrained")
    seconds = [row["seconds"] for row in curve]
    left.plot(seconds, [row["train_loss"] for row in curve], color=SKY, label="training")
    left.plot(seconds, [row["val_loss"] for row in curve], color=BLUE, label="held-out clips")
    left.axhline(found["linear_loss"], color=GREY, ls="--", lw=1)
    at = (seconds[-1], found["linear_loss"])
    left.annotate("the best linear guess", at, color=GREY, **LABEL)
    left.set(title="Learning", xlabel="seconds", ylabel="flow-matching loss", yscale="log")
    for axis in (left.yaxis.set_major_formatter, left.yaxis.set_minor_formatter):
        axis("{x:g}")
    left.legend(fontsize=9)
    kinds = {middle: ("same_place", "frames apart"), right: ("places", "tokens apart, one frame")}
    for axes, (kind, label) in kinds.items():
        for layer in decay["layers"]:
            axes.plot(_share(layer[kind]["mean"]), color=GREY, lw=0.8, alpha=0.7)
        axes.plot(_share(decay["all"][kind]["mean"]), color=BLUE, lw=2.4, marker="o", ms=4)
        fit = decay["all"][kind]["fit"]
        values = decay["all"][kind]["mean"]
        fitted = [math.exp(fit["b"] - fit["a"] * d) for d in range(len(values))]
        line = [x / values[0] for x in fitted if x > min(values) / 10]
        axes.plot(line, color=RED, lw=1.2, ls="--")
        text = (
            "thin: a layer each; thick: all\n"
            f"dashed: least squares, exp(-{fit['a']:.2f} d), R² {fit['r2']:.3f}"
        )
        axes.text(0.97, 0.95, text, transform=axes.transAxes, ha="right", va="top", fontsize=9)
        axes.set(xlabel=label, ylabel="attention, against no distance", yscale="log")
    middle.set_title("Attention decays in time (same place)")
    right.set_title("Attention decays in space")
    for axes in (left, middle, right):
        tidy(axes)
    save(figure, name)


METHODS = {  # method of extend.py -> colour, marker
    "untouched, dense": (GREY, "s"),
    "untouched, radial": (SKY, "D"),
    "dense-tuned": (BLACK, "^"),
    "radial-tuned": (BLUE, "o"),
}


def extend(found: dict, name: str):
    rows = found["cases"]
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 4.4), layout="constrained")
    for axes, key in ((left, "val_loss"), (middle, "frechet")):
        for number, (method, (colour, marker)) in enumerate(METHODS.items()):
            selected = sorted((r for r in rows if r["method"] == method), key=lambda r: r["times"])
            x, y = ([row[name] for row in selected] for name in ("times", key))
            x = [times * 2 ** (0.03 * (number - 1.5)) for times in x]  # next to each other
            axes.plot(x, y, color=colour, marker=marker, label=method, lw=1.6, ms=7)
        axes.set_xscale("log", base=2)
        times = sorted({row["times"] for row in rows})
        axes.set_xticks(times, [f"{n}x" for n in times])
        axes.set(xlabel="length, against the trained one")
    real = {int(key.removesuffix("x")): value["frechet"] for key, value in found["real"].items()}
    middle.plot(
        *zip(*sorted(real.items()), strict=True), color=ORANGE, ls=":", label="other real clips"
    )
    left.set(title="How well it denoises clips of that length", ylabel="validation loss")
    seeds = found["settings"]["seeds"]
    middle.set(
        title=f"{seeds} samples against {seeds} real clips", ylabel="Fréchet distance, squared"
    )
    middle.legend(fontsize=9)
    tuned = [row for row in rows if row.get("tuning_s_a_step")]
    labels = [f"{row['times']}x, {row['method']}" for row in tuned]
    colours = [METHODS[row["method"]][0] for row in tuned]
    bars = right.barh(labels, [row["tuning_s_a_step"] for row in tuned], color=colours)
    right.bar_label(bars, fmt="%.2f s", padding=3, fontsize=9)
    right.margins(x=0.15)
    right.set(title="A training step", xlabel="seconds")
    for axes in (left, middle, right):
        tidy(axes)
    save(figure, name)


CACHES = {  # (kind, radial) -> label, colour, marker
    ("fewer steps", False): ("fewer steps", GREY, "s"),
    ("EasyCache", False): ("EasyCache", ORANGE, "o"),
    ("EasyCache", True): ("radial + EasyCache", RED, "o"),
    ("TeaCache", False): ("TeaCache", SKY, "^"),
    ("TeaCache", True): ("radial + TeaCache", BLUE, "^"),
    ("", True): ("radial", BLACK, "D"),
}


def caches(found: dict, name: str):
    figure, axes = plt.subplots(figsize=(8, 5.6), layout="constrained")
    video = next(iter(found["attention_share"]))
    for (kind, radial), (label, colour, marker) in CACHES.items():
        rows = [row for row in found["cases"] if (row["kind"], row["radial"]) == (kind, radial)]
        points = sorted((row["speedup"][video], row["psnr"], row["psnr_std"]) for row in rows)
        if points:
            x, y, spread = zip(*points, strict=True)
            errors = [each / found["seeds"] ** 0.5 for each in spread]
            axes.errorbar(x, y, errors, color=colour, marker=marker, label=label, capsize=2)
    axes.set(
        xlabel=f"computed speed-up of {video}",
        ylabel="PSNR with the dense video of the same seed, dB",
    )
    axes.legend(fontsize=9, title=f"bars: standard error of {found['seeds']} seeds")
    tidy(axes)
    save(figure, name)


def _share(values: list[float]) -> list[float]:
    return [x / values[0] for x in values]


def main(gpu: str = "h100", report: Path = REPORT):
    drawings = {"compare": compare, "train": train, "extend": extend, "caches": caches}
    drawings |= {"proportions": proportions, "front": quality_front}
    for kind, draw in drawings.items():
        path = record.RESULTS / f"quality-{kind}-{gpu}.json"
        if not path.exists():
            print(f"Not measured: {path}")
            continue
        found = json.loads(path.read_text())
        if kind == "compare":
            found["cases"] = [complete(row) for row in found["cases"]]
        draw(found, path.stem)
        if kind == "compare":
            report.write_text(tables(found))
            print(f"Written: {report}")


if __name__ == "__main__":
    main(*sys.argv[1:])
