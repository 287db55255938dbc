"""What is said of a run, and what it saved."""

import pytest
from conftest import pack_module


def run_of(*steps, blocks=4, failures=(), **more):
    """steps: of each, what its blocks ran as: a string for all of them, or one for each."""
    entries, dense, radial = [], {}, 0
    for number, kinds in enumerate(steps):
        kinds = [kinds] * blocks if isinstance(kinds, str) else kinds
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
        "fused_blocks": 0,
        "blocks_not_fused": 0,
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
    "run, status",
    [
        (run_of("radial"), "radial 100 %: 1 step, 27.5 % of the map kept, triton"),
        (
            run_of("radial", "radial"),
            "radial 100 %: all 2 steps, 27.5 % of the map kept, triton",
        ),
        (
            run_of("dense step", "dense step", MIXED, MIXED, "dense step"),
            "radial 30 %: 2 of 5 steps, 27.5 % of the map kept, triton; "
            "dense: first 2 steps and last step, first block",
        ),
        (
            run_of("radial", "OutOfMemoryError", "OutOfMemoryError", "OutOfMemoryError"),
            "radial 25 %: 1 of 4 steps, 27.5 % of the map kept, triton; "
            "dense: OutOfMemoryError (last 3 steps)",
        ),
        (
            run_of("radial", "no", "radial", "no", "no", "radial", "no", "radial"),
            "radial 50 %: 4 of 8 steps, 27.5 % of the map kept, triton; "
            "dense: no (4 of steps 1 to 6)",
        ),
        (run_of("single frame", "single frame"), "nothing radial in 2 steps; dense: single frame"),
        (run_of("dense step"), "nothing radial in 1 step; dense: first step"),
        (run_of(*["dense step"] * 5), "nothing radial in 5 steps; dense: all 5 steps"),
        (run_of(["radial", *["no"] * 999], blocks=1000), "radial 1 %: 1 step,"),
        (run_of(["no", *["radial"] * 999], blocks=1000), "radial 99 %: 1 step,"),
    ],
)
def test_the_status_line(run, status):
    said = pack_module("nodes.run.words").status(run)
    assert said == status if not status.endswith(",") else said.startswith(status)


def test_the_report_says_whether_the_saving_is_measured():
    words = pack_module("nodes.run.words")
    saving = {"seconds": 369.2, "speedup": 1.561, "how": "measured"}
    text = words.report(run_of("dense step", MIXED, saving=saving))
    assert "Time: 4 s in the model, 50% of it self-attention." in text
    assert "Saved: about 369 s; with dense self-attention throughout it would have taken" in text
    assert "1.56 times as long (measured" in text
    text = words.report(run_of("radial", saving={**saving, "how": "estimated"}))
    assert "(estimated from the kept share" in text
    text = words.report(run_of("radial", saving={**saving, "seconds": -2.0}))
    assert "Saved: nothing, radial calls took 2 s more" in text


def test_a_report_without_times():
    run = run_of("radial")
    run["totals"]["seconds"] = None
    assert "No times" in pack_module("nodes.run.words").report(run)


def test_a_run_that_never_came_to_us():
    run, words = run_of(), pack_module("nodes.run.words")
    for said in (words.status(run), words.report(run), words.summary(run)):
        assert "torch.compile may have kept a graph from before" in said


SIZE = (2, 100)


@pytest.mark.parametrize(
    "calls, seconds, how",
    [
        # medians: the first call of each compiles
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
