"""What a run's record has of adaptive lists, and how it is told."""

import json
import threading

import pytest
import torch
from conftest import pack_module
from test_stopwatch import GPU, gpu  # noqa: F401
from test_summary_text import run_of, texts, why

core = pack_module("radial_core")
record_of = pack_module("nodes.run.record")

PATTERN, SCHEDULE = core.RadialPattern(0.2, 1), core.Schedule(1, 0, 0)


@pytest.fixture
def record():
    return record_of.Record()


def attended(*shares):
    return torch.tensor(shares, dtype=torch.float32)


def call(record, gpu, seconds, looks=(), shares=(0.75, 0.5), **entry):  # noqa: F811
    """A call on the fake GPU: seconds of work, and before them those of its looks."""
    mark = record.start(GPU)
    for each in looks:
        began = record.start(GPU)
        gpu.work(each)
        record.looked(began, attended(*shares), 1000)
    gpu.work(seconds)
    entry = {"step": 1, "block": 0, "shape": (1, 100), "backend": "triton"} | entry
    record.end_call(record_of.CallEntry(mark, **entry))


def adaptive(record, gpu, seconds, looks=()):  # noqa: F811
    call(record, gpu, seconds, looks, density=0.25, adaptive=True, precision="exact")


def test_the_settings_say_which_lists(record):
    record.use(PATTERN, SCHEDULE, None)
    assert record.read()["settings"]["lists"] == "radial"
    assert "budget" not in record.read()["settings"] and record.read()["adaptive"] is None
    record.use(PATTERN, SCHEDULE, None, 0.67)
    settings = record.read()["settings"]
    assert (settings["lists"], settings["budget"]) == ("adaptive", 0.67)


def test_a_look_counts_apart_from_its_call(record, gpu):  # noqa: F811
    record.use(PATTERN, SCHEDULE, None, 0.5)
    step = record.start(GPU)
    call(record, gpu, 4.0, dense=why("dense step"), backend=None)
    adaptive(record, gpu, 1.0, looks=(2.0, 3.0))  # two videos
    for _ in range(2):
        adaptive(record, gpu, 1.0)
    call(record, gpu, 2.0, density=0.5, precision="exact")  # another one that is radial
    record.end_forward(record_of.CallEntry(step, step=1))
    run = record.read()
    totals, found = run["totals"], run["adaptive"]
    assert (totals["radial_calls"], totals["adaptive_calls"]) == (4, 3) and found["calls"] == 3
    assert run["density"] == pytest.approx((3 * 0.25 + 0.5) / 4)
    assert (found["looks"], found["look_seconds"], found["bytes"]) == (2, 5.0, 2000)
    assert totals["attention_seconds"] == totals["seconds"] == 4 + 5 + 3 + 2
    assert totals["seconds_of_a_radial_call"] == 1.0
    assert run["saving"]["seconds"] == 3 * 3 + 2 - 5
    json.dumps(run)


def test_nothing_waits_for_what_a_look_found(record, gpu, monkeypatch):  # noqa: F811
    def waits(tensor):
        raise AssertionError("it waits for the device")

    record.use(PATTERN, SCHEDULE, None, 0.5)
    with monkeypatch.context() as patched:
        for name in ("tolist", "item", "cpu", "__float__", "__bool__"):
            patched.setattr(torch.Tensor, name, waits)
        adaptive(record, gpu, 1.0, looks=(1.0,))
        assert record.read(wait=False)["adaptive"]["attended"] is None and gpu.waits == 0
    call(record, gpu, 1.0, looks=(1.0,), shares=(0.25, 0.25), density=0.25)
    call(record, gpu, 1.0, looks=(1.0,), shares=(float("nan"), 0.5), density=0.25)
    for wait in (True, False, True):  # it is read once, and kept
        found = record.read(wait)["adaptive"]
        assert (found["attended"], found["attended_by_radial"]) == (0.5, 0.375)
    assert found["looks"] == 3


def test_looks_of_another_thread_are_not_this_calls(record, gpu):  # noqa: F811
    record.use(PATTERN, SCHEDULE, None, 1.0)

    def looks():
        began = record.start(GPU)
        gpu.work(1.0)
        record.looked(began, attended(1, 1), 8)

    thread = threading.Thread(target=looks)
    thread.start()
    thread.join()
    adaptive(record, gpu, 2.0)
    run = record.read()
    assert run["totals"]["seconds_of_a_radial_call"] == 2.0
    assert run["adaptive"]["look_seconds"] == 1.0


def test_without_a_clock_there_are_no_seconds(record):
    record.use(PATTERN, SCHEDULE, None, 1.0)
    record.looked(None, attended(0.75, 0.5), 8)
    record.end_call(record_of.CallEntry(None, 1, 0, None, "triton", (1, 9), 0.5, adaptive=True))
    found = record.read()["adaptive"]
    assert found["look_seconds"] is None and found["attended"] == 0.75


def test_a_call_that_failed_was_not_adaptive(record):
    entry = record_of.CallEntry(None, 1, 0, None, "triton", (1, 9), 0.5, adaptive=True)
    entry.failed(why("OutOfMemoryError"))
    record.end_call(entry)
    assert record.read()["totals"]["adaptive_calls"] == 0 and not entry.adaptive


def test_the_summary_of_a_run_has_it():
    reporter = pack_module("nodes.run.run_reporter").RunReporter()
    reporter.record.use(PATTERN, SCHEDULE, None, 1.0)
    reporter.record.looked(None, attended(0.75, 0.5), 8)
    assert reporter.summary()["adaptive"]["attended"] == 0.75


FOUND = {
    "calls": 8,
    "looks": 80,
    "look_seconds": 1.6,
    "attended": 0.881,
    "attended_by_radial": 0.79,
    "bytes": 70_000_000,
    "why_radial": None,
    "not_repaired": None,
}


def run_with(*steps, **found):
    settings = {"decay": 0.2, "lists": "adaptive", "budget": 0.67}
    return run_of(*steps, settings=settings, adaptive=FOUND | found)


@pytest.mark.parametrize(
    "found, said",
    [
        (
            {},
            "adaptive lists (budget 0.67) keep 88 % of the attention, radial ones would keep 79 % "
            "(looked 80 times, 1.6 s, 70 MB)",
        ),
        ({"looks": 1, "look_seconds": None, "bytes": 2.1e9}, "(looked once, 2.1 GB)"),
        ({"bytes": 40}, "1.6 s, 0.04 kB)"),  # a toy's
        ({"attended": None, "attended_by_radial": None}, "(budget 0.67) (looked 80 times"),
        (
            {"calls": 2, "why_radial": "lists of 8 GiB are kept already"},
            "(budget 0.67) in 25 % of the radial calls keep 88 %",
        ),
        (
            {"calls": 2, "why_radial": "lists of 8 GiB are kept already"},
            "other lists are radial: lists of 8 GiB are kept already",
        ),
        (
            {"calls": 0, "looks": 0, "why_radial": "no dense step comes before the sparse ones"},
            "; lists are radial: no dense step comes before the sparse ones",
        ),
        (
            {"not_repaired": "OutOfMemoryError"},
            "; not all outputs of adaptive lists are repaired: OutOfMemoryError",
        ),
    ],
)
def test_the_texts(found, said):
    status, report, summary = texts(run_with("radial", "radial", **found))
    assert said in status and said in summary
    assert said[3:] in report  # a sentence there, with a capital
    assert ("keep" in status) == (found.get("calls") != 0 and "attended" not in found)


def test_lists_are_not_told_of_where_there_are_none():
    for run in (run_of("radial"), run_with("no", why_radial="the model is in training")):
        assert all("lists are" not in text and "budget 0.67)" not in text for text in texts(run))


def test_the_picture_has_room_for_it():
    draw = pack_module("nodes.drawing.report").draw
    run = run_with("radial", "radial", calls=2, why_radial="lists of 8 GiB are kept already")
    heights = [draw([("", each)]).height for each in (run_of("radial", "radial"), run)]
    assert heights[1] - heights[0] == 3 * 36  # lines
