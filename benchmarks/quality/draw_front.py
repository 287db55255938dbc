"""The picture of the front: likeness to the dense video against real time, presets marked."""

import re

import matplotlib.pyplot as plt
from drawing import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, save, tidy
from front_ways import REPAIR
from table import pareto_front
from tables_front import AUTHORS, GRID, speedup

CACHE = ", EasyCache 50%"  # with which the presets were sampled
STEPS = r"(\d+% dense( in the end)?|x[\d.]+( until \d+%)?)"
ADAPTIVE, CACHED = rf"adaptive: {STEPS}(, {STEPS})*", r", EasyCache \d+%"
KINDS = {  # -> colour, marker, its methods
    "radial lists": (SKY, "D", rf"radial: {STEPS}"),
    "adaptive lists": (GREEN, "o", ADAPTIVE),
    "adaptive lists, repair": (BLUE, "o", f"{ADAPTIVE}, {REPAIR}"),
    "adaptive lists, EasyCache": (GREEN, "^", f"{ADAPTIVE}{CACHED}"),
    "adaptive lists, repair, EasyCache": (BLUE, "^", f"{ADAPTIVE}, {REPAIR}{CACHED}"),
    "dense, our kernels: fewer steps": (GREY, "s", r"dense, \d+% fewer steps"),
    "dense, our kernels: EasyCache": (ORANGE, "^", f"dense{CACHED}"),
    "dense, our 8-bit kernel": (PURPLE, "P", "dense, 8 bit"),
    "dense, ComfyUI's: fewer steps": (GREY, "s", r"ComfyUI's dense, \d+% fewer steps"),
    "dense, ComfyUI's: EasyCache": (ORANGE, "^", f"ComfyUI's dense{CACHED}"),
    "ComfyUI's sol_attn, its rule": (RED, "X", rf"sol_attn's rule: {STEPS}"),
}
LABELS = {  # of points -> where, in points, and which end of the text is there
    "balanced": ((32, 16), "left"),
    "closer": ((-13, -4), "right"),
    "faster": ((12, -14), "left"),
    "balanced + EasyCache": ((12, -4), "left"),
    "faster + EasyCache": ((0, 12), "center"),
    "authors' settings": ((-9, -4), "right"),
}


def kind_of(method: str) -> str | None:
    """None for methods that have no place in the picture."""
    fits = (kind for kind, (*_, methods) in KINDS.items() if re.fullmatch(methods, method))
    return next(fits, None)


def front(found: dict, name: str):
    cases = [case for case in found["cases"] if case["grid"] == GRID and kind_of(case["method"])]
    figure, axes = plt.subplots(figsize=(9.5, 6.5), layout="constrained")
    for kind, (colour, marker, _) in KINDS.items():
        every = [case for case in cases if kind_of(case["method"]) == kind]
        if every:
            x, y = [speedup(case, found) for case in every], [case["psnr"] for case in every]
            style = {"facecolor": "none"} if "ComfyUI's:" in kind else {"facecolor": colour}
            style |= {"edgecolor": colour, "marker": marker, "s": 36, "zorder": 2}
            axes.scatter(x, y, label=kind, **style)
    nearest = pareto_front(cases, "seconds_estimate")
    line = [(speedup(case, found), case["psnr"]) for case in nearest]
    axes.plot(*zip(*line, strict=True), color=BLACK, lw=1, ls=":", zorder=1, label="the front")
    for label, case, filled in _labelled(cases):
        at = speedup(case, found), case["psnr"]
        if label != "authors' settings":
            style = {"facecolor": BLUE if filled else "white", "edgecolor": BLUE}
            axes.scatter(*at, marker="*", s=230, zorder=3, **style)
        where, end = LABELS[label]
        style = {"textcoords": "offset points", "xytext": where, "ha": end, "zorder": 2.5}
        style["arrowprops"] = {"arrowstyle": "-", "linewidth": 0.8, "shrinkA": 1, "shrinkB": 6}
        axes.annotate(label, at, weight="bold", fontsize=10, **style)
    axes.set(
        xlabel="times as fast as ComfyUI's default: a run of Wan 2.1 14B, 69 frames, 768p, H200",
        ylabel="PSNR with the dense video of the same seed, dB (the lab's model)",
    )
    axes.legend(fontsize=8.5, loc="upper right")
    tidy(axes)
    save(figure, name)


def _labelled(cases: list[dict]) -> list[tuple[str, dict, bool]]:
    """Label, case, and whether its star is filled."""
    presets = {case["method"]: case["preset"] for case in cases if case["preset"]}
    found = []
    for case in cases:
        method = case["method"]
        if method in presets:
            found.append((presets[method], case, True))
        elif method.removesuffix(CACHE) in presets:
            found.append((f"{presets[method.removesuffix(CACHE)]} + EasyCache", case, False))
        elif method == AUTHORS:
            found.append(("authors' settings", case, False))
    return found
