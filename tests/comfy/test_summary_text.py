"""The texts about a run have the right figures and reasons, and the saving is right."""

import pytest
from conftest import pack_module


def why(text):
    """The reason of this text; one that nobody knows is an error's name."""
    reasons = pack_module("nodes.run.reasons")
    known = {reason.value: reason for reason in reasons.Reason}
    return reasons.Why(known.get(text, reasons.Reason.FAILED), text)


def run_of(*steps, blocks=4, failures=(), **more):
    """A run's data. steps: what the blocks of each step ran as, one string for all or one each."""
    entries, dense, radial = [], {}, 0
    for number, kinds in enumerate(steps):
        kinds = [kinds] * blocks if isinstance(kinds, str) else kinds
        kinds = [kind if kind == "radial" else why(kind) for kind in kinds]
        entries.append(
            {
                "step": number,
                "model_calls": 1,
                "seconds": 2.0,
                "attention_seconds": {kind: 0.25 * kinds.count(kind) for kind in kinds},
                "blocks": [
                    {"first": i, "last": i, "calls": {kind: 1}} for i, kind in enumerate(kinds)
                ],
            }
        )
        for kind in kinds:
            radial += kind == "radial"
            if kind != "radial":
                dense[kind] = dense.get(kind, 0) + 1
    return {
        "settings": {"decay": 0.2},
        "settings_of": None,
        "density": 0.275 if radial else None,
        "backend": "triton" if radial else None,
        "dense_backends": {},
        "precisions": {"exact": radial} if radial else {},
        "dense_precisions": {"exact": sum(dense.values())} if dense else {},
        "why_exact": None,
        "fused_blocks": 0,
        "blocks_not_fused": 0,
        "why_not_fused": {},
        "compiled": False,
        "passed_by": [],
        "missing_features": {},
        "failures": list(failures),
        "blocks": blocks,
        "totals": {
            "steps": len(steps),
            "radial_calls": radial,
            "dense_calls": dense,
            "other_calls": {},
            "seconds": 2.0 * len(steps),
            "attention_seconds": 1.0 * len(steps),
            "seconds_of_a_radial_call": None,
            "seconds_of_a_dense_call": None,
        },
        "saving": None,
        "steps": entries,
        **more,
    }


MIXED = ["dense block", "radial", "radial", "radial"]


@pytest.mark.parametrize(
    "run, facts",
    [
        (run_of("radial"), ["100 %", "1 step", "27.5 %", "triton"]),
        (run_of("radial", "radial"), ["100 %", "2 steps"]),
        (
            run_of("dense step", "dense step", MIXED, MIXED, "dense step"),
            ["30 %", "2 of 5 steps", "first 2 steps", "last step", "first block"],
        ),
        (
            run_of("radial", "OutOfMemoryError", "OutOfMemoryError", "OutOfMemoryError"),
            ["25 %", "1 of 4 steps", "OutOfMemoryError (last 3 steps)"],
        ),
        (
            run_of("radial", "no", "radial", "no", "no", "radial", "no", "radial"),
            ["50 %", "4 of 8 steps", "no (4 of steps 1 to 6)"],
        ),
        (run_of("single frame", "single frame"), ["nothing radial", "2 steps", "single frame"]),
        (run_of("dense step"), ["nothing radial", "first step"]),
        (run_of(*["dense step"] * 5), ["nothing radial", "all 5 steps"]),
        (run_of(["radial", *["no"] * 999], blocks=1000), [" 1 %"]),  # neither none nor all
        (run_of(["no", *["radial"] * 999], blocks=1000), [" 99 %"]),
    ],
)
def test_the_status_line(run, facts):
    text = pack_module("nodes.run.summary_text").status(run)
    assert [fact for fact in facts if fact not in text] == [] and "\n" not in text


def test_the_report_tells_measured_from_estimated_savings():
    summary_text = pack_module("nodes.run.summary_text")
    saving = {"seconds": 369.2, "speedup": 1.561, "how": "measured"}
    text = summary_text.report(run_of("dense step", MIXED, saving=saving))
    for fact in ("4 s in the model", "50%", "369 s", "1.56 times", "measured"):
        assert fact in text
    text = summary_text.report(run_of("radial", saving={**saving, "how": "estimated"}))
    assert "estimated" in text and "measured" not in text
    text = summary_text.report(run_of("radial", saving={**saving, "seconds": -2.0}))
    assert "2 s more" in text


def test_a_report_without_times():
    run = run_of("radial")
    run["totals"]["seconds"] = None
    assert "No times" in pack_module("nodes.run.summary_text").report(run)


def test_a_run_that_never_called_the_hook():
    summary_text = pack_module("nodes.run.summary_text")
    for compiled in (False, True):
        run = run_of(compiled=compiled)
        for text in (summary_text.status(run), summary_text.report(run), summary_text.summary(run)):
            assert "no call reached this node" in text and ("torch.compile" in text) == compiled


def test_missing_features_and_steps_without_blocks_are_named():
    summary_text = pack_module("nodes.run.summary_text")
    run = run_of("radial", [], [], missing_features={"training": "ImportError: moved"})
    for text in (summary_text.status(run), summary_text.report(run), summary_text.summary(run)):
        assert "o training here" in text and "last 2 steps" in text


SIZE = (2, 100)


@pytest.mark.parametrize(
    "calls, seconds, how",
    [
        # medians, because the first calls compile
        ({(*SIZE, None): [9, 3, 3], (*SIZE, 0.25): [7, 1, 1, 1]}, 4 * 2, "measured"),
        ({(*SIZE, 0.25): [1, 1]}, 2 * 3, "estimated"),
        ({(*SIZE, None): [3], (*SIZE, 0.5): [1], (1, 50, 0.5): [1]}, 2 + 1, "estimated"),
        ({(*SIZE, None): [1], (*SIZE, 0.25): [2]}, -1, "measured"),
    ],
)
def test_the_saving(calls, seconds, how):
    saving = pack_module("nodes.run.saving").saving(calls, 20.0)
    assert saving == {"seconds": seconds, "speedup": (20 + seconds) / 20, "how": how}


def test_no_saving_without_radial_calls():
    assert pack_module("nodes.run.saving").saving({(*SIZE, None): [3.0]}, 20.0) is None
