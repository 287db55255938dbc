"""Tables of what the quality lab measured."""

from statistics import mean, stdev

from tables_format import (
    NOT_MEASURED,
    by_name,
    cases,
    markdown,
    measured_in_the_lab,
    results,
)

MASKS = {
    "radial": "radial decay 0.2 sink 1",
    "spatial": "spatial sink 0 keep 59",
    "sliding window": "sliding sink 0 keep 59",
    "tile window": "tile keep 59",
    "temporal": "temporal sink 0 keep 59",
    "most attended, one map": "mean_all keep 59",
    "most attended, a map per head": "mean_heads keep 59",
    "most attended, chosen anew at each call": "oracle keep 59",
}
RADIAL_128 = "radial decay 0.2 sink 1 block 128; dense steps {}+0, blocks 0"


def quality_steps() -> str:
    """The share of dense steps against how near a video stays to the dense one."""
    found, rows = by_name("quality-compare-h100"), []
    steps = results("quality-compare-h100")["sizes"]["lab"]["steps"]
    for dense in (0, 3, 7, 15):
        case = found[RADIAL_128.format(dense)]
        figures = [f"{case['kept_flops']:.2f}", f"{case['psnr']:.1f}", f"{case['ssim']:.3f}"]
        rows.append([f"{dense} of {steps}", *figures])
    return markdown(["dense first steps", "share of the work", "PSNR, dB", "SSIM"], rows)


def quality_masks() -> str:
    """Masks that keep the same share of the block map."""
    found, rows = by_name("quality-compare-h100"), []
    dense_loss = results("quality-compare-h100")["sizes"]["lab"]["dense_val_loss"]
    for title, name in MASKS.items():
        case = found[f"{name} block 64; dense steps 0+0, blocks 0"]
        loss = f"+{case['val_loss'] - dense_loss:.4f}"
        psnr = f"{case['psnr']:.1f} ± {case['psnr_std']:.1f}"
        rows.append([title, f"{case['density']:.0%}", loss, psnr])
    return markdown(["mask", "kept", "validation loss", "PSNR, dB"], rows)


def quality_longer() -> str:
    rows = [
        [
            case["name"].replace(", ", " the trained length, ", 1),
            *(f"{case['kept']:.0%}", f"{case['val_loss']:.3f}", f"{case['frechet']:.0f}"),
        ]
        for case in sorted(cases("quality-extend-h100"), key=lambda case: case["times"])
    ]
    return markdown(["video", "kept", "validation loss", "Fréchet distance"], rows)


def quality_eight_bits() -> str:
    """What 8 bits change in a radial video, beside the bars."""
    found = measured_in_the_lab("eight-bits")
    if found is None:
        return NOT_MEASURED
    rows = [_eight_bits_row(case, found["bars"], found["steps"]) for case in found["cases"]]
    return markdown(["8-bit radial against exact radial", "measured", "bar"], rows)


def _eight_bits_row(case: dict, bars: dict, steps: int) -> list[str]:
    blocks = f"blocks of {case['mask'].rpartition(' ')[2]}"
    if case["question"] == "videos":
        title = f"PSNR, dB: {blocks}, {case['dense_steps']} of {steps} steps dense"
        psnr = f"{case['psnr']:.1f} ± {case['psnr_std']:.1f}"
        return [title, psnr, f"at least {bars['psnr']:.0f}"]
    if case["question"] == "validation loss":
        share, bar = case["share_of_the_masks_loss"], bars["share_of_the_masks_loss"]
        measured = f"{100 * share['mean']:.1f} ± {100 * share['standard_error']:.1f} %"
        return [f"added loss, of what the mask adds: {blocks}", measured, f"at most {bar:.0%}"]
    title = f"error of a call, median and worst of {case['calls']}: {blocks}, {case['inputs']}"
    bar = f"at most {bars['attention_error']:g}"
    return [title, f"{case['error_median']:.4f}, {case['error_worst']:.4f}", bar]


def quality_caches() -> str:
    """Step caches, radial attention and both: computed speed-up and measured likeness."""
    found = measured_in_the_lab("caches")
    if found is None:
        return NOT_MEASURED
    head = ["sampling", f"steps run of {found['steps']}"]
    head += [f"speed-up, {video.partition(',')[0]}" for video in found["attention_share"]]
    head += ["PSNR, dB", "radial adds, dB"]
    rows = [["dense", str(found["steps"]), *["1.0x"] * len(found["attention_share"]), "", ""]]
    by_name = {case["name"]: case for case in found["cases"]}
    for case in sorted(found["cases"], key=_kind_and_speed):
        alone = by_name.get(case["name"].removeprefix("radial + "), case)
        adds = "" if alone is case else _difference(case, alone)
        speedups = [f"{x:.1f}x" for x in case["speedup"].values()]
        psnr = _with_error(case["psnr_of_seeds"])
        rows.append([case["name"], f"{case['steps_run']:.0f}", *speedups, psnr, adds])
    return markdown(head, rows)


def _speedup(case: dict) -> float:
    return next(iter(case["speedup"].values()))


def _kind_and_speed(case: dict) -> tuple:
    kinds = ("fewer steps", "EasyCache", "TeaCache", "")
    return case["radial"], kinds.index(case["kind"]), _speedup(case)


def _difference(case: dict, other: dict) -> str:
    """Of PSNR, as a mean over the seeds and its standard error."""
    pairs = zip(case["psnr_of_seeds"], other["psnr_of_seeds"], strict=True)
    return _with_error([a - b for a, b in pairs], "+")


def _with_error(values: list[float], sign: str = "") -> str:
    return f"{mean(values):{sign}.1f} ± {stdev(values) / len(values) ** 0.5:.1f}"


TABLES = (
    quality_steps,
    quality_masks,
    quality_longer,
    quality_eight_bits,
    quality_caches,
)
