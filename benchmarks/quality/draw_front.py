"""The picture of the front: likeness to the dense video against real time, presets marked."""

import matplotlib.pyplot as plt
from drawing import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, save, tidy

KINDS = {  # kind of `kind_of` -> colour, marker
    "radial lists": (SKY, "D"),
    "adaptive lists": (BLUE, "o"),
    "adaptive lists + EasyCache": (GREEN, "^"),
    "our dense kernels, fewer steps or EasyCache": (PURPLE, "s"),
    "ComfyUI's dense attention, fewer steps": (GREY, "s"),
    "ComfyUI's dense attention + EasyCache": (ORANGE, "^"),
    "ComfyUI's sol_attn, its rule": (RED, "X"),
}


def kind_of(case: dict) -> str | None:
    """The kind of a case of the front; None for those that have no place in the picture."""
    method = case["method"]
    cached = "EasyCache" in method
    if method.startswith("ComfyUI's dense"):
        return "ComfyUI's dense attention" + (" + EasyCache" if cached else ", fewer steps")
    if method.startswith("sol_attn"):
        return "ComfyUI's sol_attn, its rule"
    if method.startswith("dense"):
        return "our dense kernels, fewer steps or EasyCache"
    if method.startswith("radial"):
        return "radial lists"
    return "adaptive lists" + (" + EasyCache" if cached else "")


def speedup(case: dict, found: dict) -> float:
    """Over ComfyUI's default attention in all steps."""
    passes = found["passes_of_wan"]
    return passes["comfyui"] * passes["forwards"] / case["seconds_estimate"]


def on_front(cases: list[dict]) -> list[dict]:
    """Those than which none is both nearer to the dense video and as fast; the fastest first."""
    best, found = float("-inf"), []
    for case in sorted(cases, key=lambda case: (case["seconds_estimate"], -case["psnr"])):
        if case["psnr"] > best:
            best = case["psnr"]
            found.append(case)
    return found


def front(found: dict, name: str):
    cases = [case for case in found["cases"] if case["set"] == "front"]
    figure, axes = plt.subplots(figsize=(9, 6), layout="constrained")
    for kind, (colour, marker) in KINDS.items():
        every = [case for case in cases if kind_of(case) == kind and case["preset"] is None]
        if every:
            x, y = [speedup(case, found) for case in every], [case["psnr"] for case in every]
            axes.scatter(x, y, color=colour, marker=marker, s=34, label=kind, zorder=2)
    line = [(speedup(case, found), case["psnr"]) for case in on_front(cases)]
    axes.plot(*zip(*line, strict=True), color=BLACK, lw=1, ls=":", zorder=1, label="the front")
    for case in cases:
        if case["preset"] is not None:
            at = speedup(case, found), case["psnr"]
            axes.scatter(*at, marker="*", s=220, color=BLUE, edgecolor="white", zorder=3)
            style = {"textcoords": "offset points", "xytext": (9, 5), "weight": "bold"}
            axes.annotate(case["preset"], at, **style)
    axes.set(
        xlabel="times as fast as ComfyUI's default: a run of Wan 2.1 14B, 69 frames, 768p, H200",
        ylabel="PSNR with the dense video of the same seed, dB (the lab's model)",
    )
    axes.legend(fontsize=8)
    tidy(axes)
    save(figure, name)
