"""Tables of the quality front: how near to the dense video, and how fast."""

from tables_format import NOT_MEASURED, markdown, measured_in_the_lab, number

GRID = "16 x 16 x 32"  # tokens of the lab's videos
AUTHORS, QUARTER, REPAIR = "radial: 25% dense", "adaptive: 25% dense", "residual repair"
SHOWN = (  # of the front, besides presets, also in 8 bits or with EasyCache
    AUTHORS,
    "radial: 50% dense",
    QUARTER,
    f"{QUARTER}, x0.5",
    "adaptive: 50% dense",
    "adaptive: 10% dense, x0.67 until 25%, x0.67",
    "adaptive: 10% dense, x1.5 until 25%, x0.67",
    f"{QUARTER}, {REPAIR}",
    f"{QUARTER}, x0.5, {REPAIR}",
    f"{QUARTER}, x0.5, {REPAIR}, 8 bit",
    f"{QUARTER}, x0.33, {REPAIR}",
    f"adaptive: 40% dense, x0.67, {REPAIR}",
    f"adaptive: 50% dense, {REPAIR}",
    "dense, 50% fewer steps",
    "dense, EasyCache 67%",
    "dense, EasyCache 50%",
    "dense, EasyCache 36%",
    "dense, 8 bit",
    "ComfyUI's dense, EasyCache 50%",
    "sol_attn's rule: 20% dense",
    "sol_attn's rule: 50% dense",
)
GIVEN_BACK = (
    "",
    REPAIR,
    f"{REPAIR}, 64 rows",
    f"{REPAIR}, 256 rows",
    f"{REPAIR}, ridge 0.02",
    f"{REPAIR}, ridge 0.5",
    f"{REPAIR}, centred",
    f"{REPAIR}, standardized",
    f"{REPAIR}, 16 directions",
    "repair kept from the look",
    "repair fitted each 2 steps",
    "repair fitted each 4 steps",
    "mean residual",
    "pooled rest",
    "pooled rest from half of the steps on",
    "first order",
    "first order and repair",
)
PRESETS = ("closer", "balanced", "faster")
UNMEASURED = ""


def quality_front() -> str:
    found = measured_in_the_lab("front")
    if found is None:
        return NOT_MEASURED
    names = {case["method"]: case["preset"] for case in _cases(found) if case["preset"]}
    rows = []
    for case in sorted(_cases(found), key=lambda case: case["seconds_estimate"]):
        name = _name(case["method"], names)
        if name != case["method"] or case["method"] in SHOWN:
            lost = case["lost_objects"]
            rows.append(
                [
                    name,
                    *_cost(case, found),
                    f"{case['psnr']:.1f}",
                    _difference(case),
                    _flicker(case),
                    UNMEASURED if lost is None else f"{lost:.1%}",
                ]
            )
    head = ["sampling", "seconds", "speed-up", "attention", "PSNR, dB", "against the authors', dB"]
    return markdown([*head, "flicker", "lost objects"], rows)


def quality_given_back() -> str:
    """A quarter of the steps dense."""
    found = measured_in_the_lab("front")
    if found is None:
        return NOT_MEASURED
    cases, trainings = {case["method"]: case for case in _cases(found)}, _trainings(found)
    rows = []
    for lists, start in (("adaptive", QUARTER), ("adaptive, x0.5", f"{QUARTER}, x0.5")):
        rows += [_given_back(cases, trainings, lists, start, name) for name in GIVEN_BACK]
    rows.append(_given_back(cases, trainings, "radial", AUTHORS, REPAIR))
    head = ["given back", "lists", *(f"training {number}" for number in trainings)]
    return markdown([*head, "mean", "flicker"], [row for row in rows if row])


def quality_rows() -> str:
    """One thing changed of the authors' settings."""
    found = measured_in_the_lab("front")
    if found is None:
        return NOT_MEASURED
    start = f"{AUTHORS}, "
    rows = [
        [case["method"].removeprefix(start), *_cost(case, found), _difference(case), _flicker(case)]
        for case in _cases(found)
        if case["method"].startswith(start) and REPAIR not in case["method"]
    ]
    head = ["changed", "seconds", "speed-up", "attention", "PSNR, dB", "flicker"]
    return markdown(head, rows)


def quality_presets() -> str:
    """Short, for pages that are not about the lab."""
    found = measured_in_the_lab("front")
    if found is None:
        return NOT_MEASURED
    cases = [case for case in _cases(found) if case["preset"]]
    cases.sort(key=lambda case: PRESETS.index(case["preset"]))
    trainings = [x for x in _trainings(found) if any(x in c["diff_of_trainings"] for c in cases)]
    (authors,) = (case for case in _cases(found) if case["method"] == AUTHORS)
    rows = [
        [case["preset"] or "the authors' settings", *_cost(case, found), *_each(case, trainings)]
        for case in (*cases, authors)
    ]
    head = ["preset", "seconds", "speed-up", "attention"]
    return markdown([*head, *(f"dB, training {number}" for number in trainings)], rows)


def _cases(found: dict) -> list[dict]:
    return [case for case in found["cases"] if case["grid"] == GRID]


def _trainings(found: dict) -> list[str]:
    return sorted({number for case in _cases(found) for number in case["diff_of_trainings"]})


def speedup(case: dict, found: dict) -> float:
    """Over ComfyUI's default attention in all steps."""
    passes = found["passes_of_wan"]
    return passes["comfyui"] * passes["forwards"] / case["seconds_estimate"]


def _name(method: str, presets: dict[str, str]) -> str:
    """A preset's name, and what is added to it; else the method."""
    for start, name in presets.items():
        if method == start or method.startswith(f"{start}, "):
            return f"**{name}**{method.removeprefix(start)}"
    return method


def _cost(case: dict, found: dict) -> list[str]:
    """Seconds of the run, against ComfyUI's default, and attention's share of the authors'."""
    seconds, times = number(case["seconds_estimate"]), f"{speedup(case, found):.1f}x"
    return [seconds, times, f"{case['attention_share']:.0%}"]


def _given_back(cases: dict, trainings: list[str], lists: str, start: str, name: str) -> list[str]:
    """A row, empty if it was not measured."""
    case = cases.get(f"{start}, {name}" if name else start)
    if case is None:
        return []
    figures = [*_each(case, trainings), _difference(case), _flicker(case)]
    return [name or "nothing", lists, *figures]


def _each(case: dict, trainings: list[str]) -> list[str]:
    """The difference in each training."""
    diffs = case["diff_of_trainings"]
    return [_signed(diffs[name]) if name in diffs else UNMEASURED for name in trainings]


def _difference(case: dict) -> str:
    if case["method"] == AUTHORS:
        return UNMEASURED
    return f"{_signed(case['diff'])} ± {case['diff_se']:.2f}"


def _flicker(case: dict) -> str:
    return f"{round(case['flicker'], 2) + 0.0:+.0%}"


def _signed(value: float) -> str:
    return f"{round(value, 2) + 0.0:+.2f}"  # not -0.00


TABLES = (quality_front, quality_given_back, quality_rows, quality_presets)
