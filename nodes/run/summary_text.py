"""What a run did, in words. `run` is always what `Record.read` returns."""

from .amounts import percent, plural, seconds, short, size
from .gpus_text import attention, computed, notes
from .reasons import Reason, Why
from .record import RADIAL
from .saving import MEASURED
from .skipped import skipped_text
from .where import MANY, some, where

BUDGETS = ("early_budget", "budget")


def summary(run: dict) -> str:
    """For the log: one line."""
    totals = run["totals"]
    radial, dense = totals["radial_calls"], totals["dense_calls"]
    text = f"{_preset(run)}{totals['steps']} steps, {radial} self-attention calls radial, "
    text += f"{sum(dense.values())} dense"
    if dense:
        most_first = sorted(dense.items(), key=lambda item: -item[1])
        text += f" ({', '.join(f'{why}: {n}' for why, n in most_first)})"
    if run["dense_backends"]:
        text += f", dense by {', '.join(run['dense_backends'])}"
    text += _dense_precision(run, ", dense calls {}")
    if nothing := not_reached(run):
        text += f": {nothing}"
    if radial:
        text += f"; {run['density']:.1%} of the blocks kept, {computed(run)}"
    if run["settings_of"]:
        text += f"; settings for {run['settings_of']}: {settings(run)}"
    return "; ".join((text, *_notes(run)))


def not_reached(run: dict) -> str | None:
    """Why no attention call of a run came to this node; None if any did."""
    totals = run["totals"]
    if totals["radial_calls"] or totals["dense_calls"] or totals["other_calls"]:
        return None
    if run["compiled"]:
        return "no call reached this node. torch.compile may have kept a graph from before it"
    return (
        "no call reached this node. The model's transformer blocks did not run, or ran where this "
        "node can't see them"
    )


def _notes(run: dict) -> list[str]:
    """What else a person should know, in every text."""
    gpus = notes(run)
    return [*lists(run), *gpus, *_why_exact(run), *_passed_by(run), *_skipped(run), *_missing(run)]


def lists(run: dict) -> list[str]:
    """What adaptive lists keep, and why some are radial, or their outputs not repaired."""
    found, radial, said = run["adaptive"], run["totals"]["radial_calls"], []
    if found is None or not radial:
        return []
    if found["calls"]:
        budgets = [f"{run['settings'][b]:g}" for b in BUDGETS if b in run["settings"]]
        text = f"adaptive lists (budget {', then '.join(budgets)})"
        if found["calls"] < radial:
            text += f" in {percent(found['calls'], radial)} of the radial calls"
        said.append(f"{text}{_attended(found)} ({_looked(found)})")
    if found["why_radial"]:
        which = "other lists are radial" if found["calls"] else "lists are radial"
        said.append(f"{which}: {found['why_radial']}")
    if found["not_repaired"]:
        said.append(f"not all outputs of adaptive lists are repaired: {found['not_repaired']}")
    return said


def _attended(found: dict) -> str:
    if found["attended"] is None:
        return ""
    adaptive, radial = (f"{100 * found[key]:.0f} %" for key in ("attended", "attended_by_radial"))
    return f" keep {adaptive} of the attention, radial ones would keep {radial}"


def _looked(found: dict) -> str:
    times = "once" if found["looks"] == 1 else f"{found['looks']:,} times"
    took = "" if found["look_seconds"] is None else f", {short(found['look_seconds'])}"
    return f"looked {times}{took}, {size(found['bytes'])}"


def _passed_by(run: dict) -> list[str]:
    """Whose sparse attention was on the hook too."""
    said = "another sparse attention, is on the hook: not used in radial or dense steps"
    return [f"{owner}, {said}" for owner in run["passed_by"]]


def _skipped(run: dict) -> list[str]:
    """Which steps were skipped."""
    text = skipped_text(run)
    return [text] if text else []


def _missing(run: dict) -> list[str]:
    """Features that this version of ComfyUI or torch can't have."""
    return [f"no {', no '.join(run['missing_features'])} here"] if run["missing_features"] else []


def _dense_precision(run: dict, text: str) -> str:
    """A text with the precision of the dense calls, where any call of the run was 8 bit."""
    dense = run["dense_precisions"]
    if not dense or set(dense) == set(run["precisions"]) == {"exact"}:
        return ""
    return text.format(" and ".join(dense))


def _why_exact(run: dict) -> list[str]:
    """Why radial calls were exact where 8 bit was wanted."""
    return [f"exact, not 8 bit: {run['why_exact']}"] if run["why_exact"] else []


def settings(run: dict) -> str:
    return ", ".join(f"{name} {value}" for name, value in run["settings"].items())


def status(run: dict) -> str:
    """For the patch node: a line."""
    if nothing := not_reached(run):
        return nothing
    parts = [headline(run)]
    if run["totals"]["radial_calls"]:
        parts[0] += f", {kept(run)}"
    elif not reasons(run):
        parts[0] += ": no self-attention over a video"
    if reasons(run):
        parts.append(f"dense{_dense_precision(run, ' ({})')}: {', '.join(reasons(run))}")
    return "; ".join((*parts, *_notes(run)))


def headline(run: dict) -> str:
    """The radial share of the self-attention calls, and of how many steps that were not skipped."""
    radial, skipped = run["totals"]["radial_calls"], len(run["totals"]["skipped_steps"])
    every = radial + sum(run["totals"]["dense_calls"].values())
    steps = plural(run["totals"]["steps"] - skipped, "computed step" if skipped else "step")
    if not radial:
        return f"{_preset(run)}nothing radial in {steps}"
    sparse, entries = len(where(run, RADIAL)[0]), _computed(run)
    of_them = "all " if sparse == entries > 1 else f"{sparse:,} of " if sparse < entries else ""
    return f"{_preset(run)}radial {percent(radial, every)}: {of_them}{steps}"


def _preset(run: dict) -> str:
    return f"{run['settings']['preset']}: " if "preset" in run["settings"] else ""


def _computed(run: dict) -> int:
    """The entries of steps that were not skipped. The last may be of many steps."""
    return len(run["steps"]) - len(run["totals"]["skipped_steps"])


def kept(run: dict) -> str:
    return f"{100 * run['density']:.1f} % of the map kept, {computed(run)}"


def reasons(run: dict) -> list[str]:
    """Why calls were dense, each with where."""
    return [_reason(run, why) for why in run["totals"]["dense_calls"]]


def _reason(run: dict, why: Why) -> str:
    steps, blocks = where(run, why)
    if why.reason is Reason.DENSE_BLOCK:
        return some(blocks, run["blocks"], "block")
    which = some(steps, len(run["steps"]), "step")
    if why.reason is Reason.DENSE_STEP:
        return which
    return why if len(steps) in (0, _computed(run)) else f"{why} ({which})"


def report(run: dict) -> str:
    """For the report node: some lines."""
    if nothing := not_reached(run):
        return f"Nothing to report: {nothing}."
    lines = [sentence(headline(run))]
    if run["totals"]["radial_calls"]:
        lines.append(sentence(kept(run)))
    if reasons(run):
        by = f", by {', '.join(run['dense_backends'])}" if run["dense_backends"] else ""
        precision = _dense_precision(run, ", {}")
        lines.append(f"Dense{precision}{by}: {'; '.join(reasons(run))}.")
    lines += [sentence(said) for said in _notes(run)]
    lines += _times(run)
    lines += _fused(run)
    if run["settings"]:
        whose = f" for {run['settings_of']}" if run["settings_of"] else ""
        lines.append(f"Settings{whose}: {settings(run)}.")
    return "\n".join(lines)


def _times(run: dict) -> list[str]:
    totals, saving = run["totals"], run["saving"]
    if totals["seconds"] is None:
        return ["No times: they need an NVIDIA or AMD GPU, or the CPU."]
    share = (totals["attention_seconds"] or 0) / totals["seconds"]
    times = f"Time: {seconds(totals['seconds'])} in the model, {share:.0%} of it self-attention"
    calls = {kind: totals[f"seconds_of_a_{kind}_call"] for kind in ("radial", "dense")}
    each = [f"{short(s)} a {kind} call" for kind, s in calls.items() if s is not None]
    lines = [f"{times} ({', '.join(each)})." if each else f"{times}.", *attention(run)]
    if saving is not None:
        skipped = totals["skipped_steps"] or totals["partly_skipped_steps"]
        lines.append(_saved(saving, "; what the step cache saved comes on top" if skipped else ""))
    return lines


def _fused(run: dict) -> list[str]:
    """How many of the blocks had fused norms, and why the others had not."""
    fused, not_fused = run["fused_blocks"], run["blocks_not_fused"]
    if not fused and not not_fused:
        return []
    line = f"Fused norms in {percent(fused, fused + not_fused)} of the blocks' calls"
    reasons = list(run.get("why_not_fused", ()))  # the most frequent first
    if reasons:
        more = ["and others"] if len(reasons) > MANY else []
        line += f"; not in the others: {'; '.join(reasons[:MANY] + more)}"
    return [f"{line}."]


def _saved(saving: dict, more: str) -> str:
    """A sentence on the saving. more: said behind how it is known."""
    of_what = (
        "measured against this run's own dense calls"
        if saving["how"] == MEASURED
        else "estimated from the kept share: this run has no dense calls to hold it against"
    )
    if saving["seconds"] <= 0:
        took = f"radial calls took {seconds(-saving['seconds'])} more"
        return f"Saved: nothing, {took} ({of_what}{more})."
    return (
        f"Saved: about {seconds(saving['seconds'])}; with dense self-attention throughout it would "
        f"have taken {saving['speedup']:.3g} times as long ({of_what}{more})."
    )


def sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."
