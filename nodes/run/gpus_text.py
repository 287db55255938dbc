"""What several GPUs did in a run, in words: what `cards/figures.py` found, and the run itself."""

from .amounts import percent, plural, seconds, short


def status(found: dict) -> str:
    """For the log and Radial Multi-GPU: a line. found: what `figures` returns."""
    split, every = found["split_passes"], found["passes"]
    why = "; ".join((*found["why_not_split"], *filter(None, (found["why_one"],))))
    if not split:
        return f"1 GPU: {why}"
    passes = plural(every, "pass", "passes")
    took, of_passes = found["communication_seconds"], found["split_seconds"]
    text = f"{len(found['gpus'])} GPUs"
    if found["why_fewer"]:
        text += f" ({found['why_fewer']})"
    text += f", {passes}" if split == every else f" in {split:,} of {passes}"
    text += f", {short(took)} of communication"
    if of_passes:
        text += f" ({percent(took, of_passes)} of {'their' if split > 1 else 'its'} time)"
    if not why:
        return text
    when = "in the others" if found["why_not_split"] else "from then on"
    return f"{text}; 1 GPU {when}: {why}"


def notes(run: dict) -> list[str]:
    """On how many GPUs a run was, and what went otherwise on the others. run: see `Record.read`."""
    found = run["totals"]["gpus"]
    if found is None:
        return []
    alike: dict[str, list[str]] = {}
    for gpu, other in zip(found["gpus"][1:], found["others"], strict=False):
        for said in _differences(run, other) if other else ():
            alike.setdefault(said, []).append(gpu)
    return [f"on {status(found)}", *(f"{said} on {', '.join(g)}" for said, g in alike.items())]


def _differences(run: dict, other: dict) -> list[str]:
    """What another GPU did otherwise than the model's own."""
    totals, said, more = run["totals"], [], {}
    if other["radial_calls"] < totals["radial_calls"]:  # more of both: it was interrupted later
        own = totals["dense_calls"]
        more = {why: calls - own.get(why, 0) for why, calls in other["dense_calls"].items()}
        more = {why: calls for why, calls in more.items() if calls > 0}
    if more:
        reasons = ", ".join(f"{why}: {calls:,}" for why, calls in more.items())
        said.append(f"{plural(sum(more.values()), 'more dense call')} ({reasons})")
    said += [name for name in other["failures"] if name not in (*more, *run["failures"])]
    if other["backend"] and run["backend"] and computed(other) != computed(run):
        said.append(f"radial calls are {computed(other)}")
    return said


def computed(run: dict) -> str:
    """How the radial calls were computed: their precision, and the backend."""
    return f"{' and '.join(run['precisions'])} ({run['backend']})"


def attention_seconds(run: dict) -> list[float] | None:
    """Of self-attention on each GPU, the model's own first; None if not all are known."""
    found = run["totals"]["gpus"]
    if found is None or not found["others"] or None in found["others"]:
        return None
    each = [one["attention_seconds"] for one in (run["totals"], *found["others"])]
    return None if None in each else each


def attention(run: dict) -> list[str]:
    """For the report: what self-attention took on each GPU, and on all."""
    each = attention_seconds(run)
    if each is None:
        return []
    by_gpu = zip(run["totals"]["gpus"]["gpus"], each, strict=True)
    by_gpu = ", ".join(f"{seconds(s)} on {gpu}" for gpu, s in by_gpu)
    return [f"Self-attention took {by_gpu}: {seconds(sum(each))} in all."]
