"""What end_to_end.py writes of a case: its ways as measured, and what follows from them."""

from end_to_end_cases import CASES, Case
from end_to_end_ways import WAYS, is_adaptive

REDUCED = (
    "Few of the blocks were run: measured_blocks. seconds = outside the blocks + each dense block "
    "of the radial model as measured + the mean of the others of its kind x how many there are. "
    "Peak memory: as measured, with the weights of the other blocks added."
)


# What a way has in a case besides seconds and memory: the entry, and its name in a run's summary.
RAN = {
    "radial": {"density": "density", "backend": "backend"},
    "dense_fastest": {"dense_backends": "dense_backends"},
    "radial_8bit": {"backend_8bit": "backend"},
    "dense_8bit": {"dense_backends_8bit": "dense_backends"},
    "adaptive_067": {"density_adaptive_067": "density"},
}
# Entry of a schedule with adaptive lists -> the way of its sparse steps, and of its dense ones.
ADAPTIVE = {
    "schedule_adaptive_s": ("radial_adaptive", "dense_fastest"),
    "schedule_adaptive_067_s": ("adaptive_067", "dense_fastest"),
    "schedule_adaptive_067_8bit_s": ("adaptive_067_8bit", "dense_8bit"),
}


def case_of(name: str, found: dict[str, dict], before: dict | None, **more) -> dict:
    """The entry of a case. found: way -> what was measured now, as `forward` returns it.

    before: its entry from an earlier run on the same machine with the same versions; None without.
    Ways that were not measured now stay as they are in it, and ways_of_an_earlier_run names them.
    """
    case, before = CASES[name], before or {}
    measured, by_way, kept = {}, {"runs": {}, "ran": {}}, []
    for way in WAYS:
        if way in found:
            figures, texts = _measured(way, found[way])
        elif f"{way}_s" in before:
            figures = {key: before[key] for key in _keys(way) if key in before}
            texts = {key: before[key][way] for key in by_way if way in before.get(key, {})}
            kept.append(way)
        else:
            continue
        measured |= figures
        for key, text in texts.items():
            by_way[key][way] = text
    result = {"name": name, **described(case), **measured, **compared(case, measured)}
    result |= {"measured_blocks": case.measured, **by_way}
    if kept:
        result["ways_of_an_earlier_run"] = kept
    if case.measured is not None:
        result["note"] = REDUCED
    return result | {key: before[key] for key in ("profile",) if key in before} | more


def _keys(way: str) -> list[str]:
    look = [f"look_s_{way}"] if is_adaptive(way) else []
    return [f"{way}_s", f"peak_gib_{way}", *look, *RAN.get(way, ())]


def _measured(way: str, found: dict) -> tuple[dict, dict]:
    """The figures of a way, and its entries under runs and ran."""
    figures = {f"{way}_s": round(found["s"], 3), f"peak_gib_{way}": found.get("peak_gib")}
    if "look_s" in found:
        figures[f"look_s_{way}"] = round(found["look_s"], 3)
    texts = {"runs": found["runs"]}
    for key, name in RAN.get(way, {}).items():
        value = found["ran"][name]
        figures[key] = list(value) if isinstance(value, dict) else value
    for key in figures.keys() & {"density", "density_adaptive_067"}:
        figures[key] = round(figures[key], 4)
    if "ran" in found:
        texts["ran"] = found["ran"]["text"]
    return figures, texts


def is_same(name: str, before: dict) -> bool:
    """Whether an entry is of this case as it is now."""
    case = CASES[name]
    now = {"name": name, **described(case), "measured_blocks": case.measured}
    return all(before.get(key) == value for key, value in now.items())


def described(case: Case) -> dict:
    return {
        "latent": list(case.latent),
        "tokens": case.model.tokens(case.latent),
        "text_tokens": case.model.text[0],
        **({"sound_tokens": sound} if (sound := case.model.sound_tokens(case.latent)) else {}),
        "dtype": "bfloat16",
        "steps": case.steps,
        "cfg": case.forwards == 2,
        "dense_steps": case.dense_steps,
        "dense_blocks": case.dense_blocks,
        "decay": case.decay,
        "sink_frames": case.sink_frames,
    }


def compared(case: Case, measured: dict) -> dict:
    """Seconds of the whole schedule, and how the ways compare, as far as they were measured.

    measured: WAY_s -> seconds of a forward pass.
    """
    dense, found = measured.get("dense_s"), {}
    if dense is not None:
        all_dense = case.forwards * case.steps * dense
        found["schedule_dense_s"] = round(all_dense, 1)
    for end, dense_steps in (("", "dense_fastest"), ("_8bit", "dense_8bit")):
        radial, fastest = measured.get(f"radial{end}_s"), measured.get(f"{dense_steps}_s")
        if radial is None:
            continue
        if dense is not None:
            found[f"speedup_forward{end}"] = round(dense / radial, 2)
        if fastest is None:
            continue
        rest = case.steps - case.dense_steps
        schedule = case.forwards * (case.dense_steps * fastest + rest * radial)
        found[f"schedule_radial{end}_s"] = round(schedule, 1)
        # The paper has no dense last step; the node has one by default.
        last_step = case.forwards * (fastest - radial)
        found[f"schedule{end}_with_last_step_s"] = round(schedule + last_step, 1)
        if dense is not None:
            found[f"speedup_schedule{end}"] = round(all_dense / schedule, 2)
    for key, (way, dense_steps) in ADAPTIVE.items():
        pass_s, dense_s = measured.get(f"{way}_s"), measured.get(f"{dense_steps}_s")
        if pass_s is not None and dense_s is not None:
            passes = case.dense_steps * dense_s + (case.steps - case.dense_steps) * pass_s
            # Each branch looks once.
            found[key] = round(case.forwards * (passes + measured[f"look_s_{way}"]), 1)
    found |= {"published_speedup": case.published_speedup, "published_s": case.published}
    if schedule := found.get("schedule_radial_s"):
        found["times_faster_than"] = {
            what: round(seconds / schedule, 2) for what, seconds in case.published.items()
        }
    return found


def composed(name: str, cases: list[dict]) -> dict:
    """A schedule of the passes that another case measured."""
    case = CASES[name]
    base = next((each for each in cases if each["name"] == case.same_as), None)
    if base is None:
        raise RuntimeError(f"its passes are those of {case.same_as}: run that case first")
    measured = {key: base[key] for way in WAYS for key in _keys(way) if key in base}
    return {
        "name": name,
        "passes_of": case.same_as,
        **described(case),
        **measured,
        **compared(case, measured),
    }
