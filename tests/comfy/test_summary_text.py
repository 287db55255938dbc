"""The texts about a run have the right figures and reasons, and the saving is right."""

import pytest
from conftest import pack_module


def why(text):
    """The reason of this text; one that nobody knows is an error's name."""
    reasons = pack_module("nodes.run.reasons")
    known = {reason.value: reason for reason in reasons.Reason}
    return reasons.Why(known.get(text, reasons.Reason.FAILED), text)


def run_of(*steps, blocks=4, failures=(), in_part=(), **more):
    """A run's data. steps: what the blocks of each step ran as, one string for all or one each;
    nothing for a step that was skipped. in_part: the steps that were skipped in part."""
    entries, dense, radial = [], {}, 0
    for number, kinds in enumerate(steps):
        kinds = [kinds] * blocks if isinstance(kinds, str) else kinds
        kinds = [kind if kind == "radial" else why(kind) for kind in kinds]
        entries.append(
            {
                "step": number,
                "model_calls": 1,
                "skipped_calls": int(number in in_part or not kinds),
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
        "adaptive": None,
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
            **pack_module("nodes.run.skipped").skipped_steps(entries),
            "radial_calls": radial,
            "gpus": None,
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


def texts(run):
    summary_text = pack_module("nodes.run.summary_text")
    return summary_text.status(run), summary_text.report(run), summary_text.summary(run)


def test_missing_features_are_named():
    run = run_of("radial", missing_features={"training": "ImportError: moved"})
    assert all("o training here" in text for text in texts(run))


@pytest.mark.parametrize(
    "steps, in_part, said",
    [
        (["radial", [], []], (), "2 of 3 steps skipped by a step cache: 1, 2"),
        ([[], "radial", [], [], []], (), "4 of 5 steps skipped by a step cache: 0, 2 to 4"),
        (["radial"] * 3, (1,), "1 of 3 steps skipped in part by a step cache: 1"),
        (
            ["radial", [], "radial"],
            (2,),
            "1 of 3 steps skipped by a step cache: 1, and 1 in part: 2",
        ),
        (
            ["radial", []] * 12,
            (),
            "12 of 24 steps skipped by a step cache, from 1 to 23",
        ),
    ],
)
def test_skipped_steps_are_told(steps, in_part, said):
    for text in texts(run_of(*steps, in_part=in_part)):
        assert said in text and "all steps" not in text


def test_skipped_steps_count_neither_as_radial_nor_as_dense():
    run = run_of("no", [], "no", MIXED, [])
    status, report, summary = texts(run)
    assert status.startswith("radial 25 %: 1 of 3 computed steps, ") and "no (first" in status
    assert report.startswith("Radial 25 %: 1 of 3 computed steps.") and summary[:7] == "5 steps"
    assert texts(run_of("radial", [], "radial"))[0].startswith("radial 100 %: all 2 computed steps")
    nothing = texts(run_of("no", [], "no", []))[0]
    assert nothing.startswith("nothing radial in 2 computed steps; dense (exact): no; 2 of 4 steps")


CALLS = {(0, 3): 2, (1, 3): 1, (1, 0): 1, (2, 1): 2, (3, 2): 1}


@pytest.mark.parametrize(
    "not_called, passes, skipped",
    [
        ({}, CALLS, {1: 1, 2: 2}),  # 2 of 3 blocks are more than half
        ({4: 1}, {(0, 3): 1}, {4: 1}),
        ({}, {(0, 0): 1, (1, 0): 1}, {}),  # nothing of the run was seen
        ({}, {}, {}),
    ],
)
def test_the_calls_that_were_skipped(not_called, passes, skipped):
    assert pack_module("nodes.run.skipped").skipped_calls(not_called, passes) == skipped


def test_the_saving_is_without_that_of_a_step_cache():
    saving = {"seconds": 369.2, "speedup": 1.561, "how": "measured"}
    for steps, is_said in ((["radial", []], True), (["radial"], False)):
        report = texts(run_of(*steps, saving=saving))[1]
        assert ("what the step cache saved comes on top" in report) == is_said


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
