"""Tables of what the quality lab measured."""

import math
from statistics import mean, stdev

from tables_format import RESULTS, by_name, cases, markdown, results

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
NOT_MEASURED = "Not measured yet."
AS_FAST = 0.1  # of the logarithm: 10 %
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
    found = _measured("eight-bits")
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
    found = _measured("caches")
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


def quality_caches_as_fast() -> str:
    """Pairs of ways to sample that are about as fast."""
    found = _measured("caches")
    if found is None:
        return NOT_MEASURED
    rows = [
        [
            case["name"],
            other["name"],
            *(f"{_speedup(x):.2f}x" for x in (case, other)),
            _difference(case, other),
        ]
        for case in sorted(found["cases"], key=_kind_and_speed)
        for other in _as_fast(case, found["cases"])
    ]
    video = next(iter(found["attention_share"])).partition(",")[0]
    head = ["sampling", "against", f"its speed-up, {video}", "the other's", "PSNR, dB"]
    return markdown(head, rows)


def _measured(kind: str) -> dict | None:
    """The first file of this kind that is not of a CPU."""
    measured = sorted(RESULTS.glob(f"quality-{kind}-*.json"))
    measured = [file.stem for file in measured if not file.stem.endswith("-tiny")]
    return results(measured[0]) if measured else None


def _as_fast(case: dict, cases: list[dict]) -> list[dict]:
    """The nearest way of each rival kind that is about as fast, without radial attention."""
    found = []
    for kind in _rivals(case):
        others = [other for other in cases if other["kind"] == kind and not other["radial"]]
        apart = [abs(math.log(_speedup(other) / _speedup(case))) for other in others]
        if apart and min(apart) < AS_FAST:
            found.append(others[apart.index(min(apart))])
    return found


def _rivals(case: dict) -> tuple[str, ...]:
    """What a cache has to beat: fewer steps; radial attention: those, and the cache alone."""
    if case["kind"] == "fewer steps":
        return ()
    if not case["radial"]:
        return ("fewer steps",)
    return "fewer steps", case["kind"] or "EasyCache"


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


def quality_lists() -> str:
    """Adaptive lists at several budgets, by the dense steps."""
    found = _measured("proportions")
    if found is None:
        return NOT_MEASURED
    groups = [group for group in _of_lists(found) if group[0]["lists"] in ("radial", "adaptive")]
    steps = next(iter(found["trainings"].values()))["steps"]
    rows = [
        [
            f"{group[0]['dense_steps']} of {steps}",
            *_lists_and_kept(group[0], found),
            _of_trainings(group, "psnr", ".1f"),
            _against_radial(group),
        ]
        for group in sorted(groups, key=lambda group: group[0]["dense_steps"])
    ]
    head = ["dense first steps", "lists", "kept", "PSNR, dB", "against radial, dB"]
    return markdown(head, rows)


def quality_lists_otherwise() -> str:
    """Other ways to choose lists, and what lists add to the loss; a quarter of the steps dense."""
    found = _measured("proportions")
    if found is None:
        return NOT_MEASURED
    quarter = next(iter(found["trainings"].values()))["steps"] // 4
    rows = [
        [
            *_lists_and_kept(group[0], found),
            _against_radial(group),
            _of_trainings(group, "worst_frame", ".1f"),
            _of_trainings(group, "val_loss_added", "+.4f"),
        ]
        for group in _of_lists(found)
        if group[0]["dense_steps"] == quarter
    ]
    head = ["lists", "kept", "against radial, dB", "worst frame, dB", "validation loss"]
    return markdown(head, rows)


def _of_lists(found: dict) -> list[list[dict]]:
    """The cases in groups, one of each training, in the order in which they were run."""
    groups = {}
    for case in found["cases"]:
        groups.setdefault((case["lists"], case["budget"], case["dense_steps"]), []).append(case)
    return list(groups.values())


def _lists_and_kept(case: dict, found: dict) -> list[str]:
    return [case["lists"], f"{found['densities'][format(case['budget'], 'g')]:.0%}"]


def _against_radial(group: list[dict]) -> str:
    """The mean over the trainings, and its standard error, which is that of the seeds alone."""
    if group[0]["lists"] == "radial":
        return ""
    error = math.hypot(*(case["diff_se"] for case in group)) / len(group)
    return _of_trainings(group, "diff_to_radial", "+.1f", f" ± {error:.1f}")


def _of_trainings(group: list[dict], key: str, style: str, error: str = "") -> str:
    """The mean over the trainings, and each of them in brackets."""
    values = [case[key] for case in group]
    if None in values:
        return ""
    each = ", ".join(format(x, style) for x in values)
    return f"{mean(values):{style}}{error}" + (f" ({each})" if len(values) > 1 else "")


TABLES = (
    quality_steps,
    quality_masks,
    quality_longer,
    quality_eight_bits,
    quality_caches,
    quality_caches_as_fast,
    quality_lists,
    quality_lists_otherwise,
)
