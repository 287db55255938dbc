"""The stopwatch never waits for a GPU. Its events are fakes here that end when a test says so."""

import pytest
import torch
from conftest import pack_module

GPU, OTHER_GPU = torch.device("cuda", 0), torch.device("cuda", 1)


class Gpu:
    """A fake of torch.cuda's events. asked, done: seconds of work queued and finished."""

    def __init__(self):
        self.asked, self.done, self.events, self.waits, self.capturing = 0.0, 0.0, 0, 0, False

    def work(self, seconds):
        self.asked += seconds

    def event(self, enable_timing):
        assert enable_timing
        self.events += 1
        return Event(self)


class Event:
    def __init__(self, gpu):
        self.gpu = gpu

    def record(self, stream):
        assert not self.gpu.capturing
        self.device, self.at = stream, self.gpu.asked

    def query(self):
        assert not self.gpu.capturing
        return self.at <= self.gpu.done

    def synchronize(self):
        self.gpu.waits += 1
        self.gpu.done = max(self.gpu.done, self.at)

    def elapsed_time(self, end):
        assert self.query() and end.query() and self.device == end.device
        return 1000 * (end.at - self.at)


@pytest.fixture
def gpu(monkeypatch):
    gpu = Gpu()
    monkeypatch.setattr(torch.cuda, "Event", gpu.event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: device)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: gpu.capturing)
    return gpu


@pytest.fixture
def times():
    return []


@pytest.fixture
def watch(times):
    return pack_module("nodes.run.stopwatch").Stopwatch(
        lambda key, s: times.append((key, round(s, 6)))
    )


def span(watch, gpu, key, seconds, device=GPU):
    mark = watch.start(device)
    gpu.work(seconds)
    watch.stop(mark, key)


def test_reads_finished_events_without_waiting(gpu, watch, times):
    for key in "abc":
        span(watch, gpu, key, 0.5)
    watch.collect()
    assert times == []
    gpu.done = 1.2
    watch.collect()
    assert times == [("a", 0.5), ("b", 0.5)] and gpu.waits == 0
    watch.collect(wait=True)
    assert times[2:] == [("c", 0.5)] and gpu.waits > 0


def test_calls_inside_a_pass(gpu, watch, times):
    outer = watch.start(GPU)
    span(watch, gpu, "call", 0.25)
    gpu.work(0.5)
    watch.stop(outer, "pass")
    gpu.done = gpu.asked
    watch.collect()
    assert times == [("call", 0.25), ("pass", 0.75)]


def test_events_are_reused(gpu, watch, times):
    for _ in range(1000):
        span(watch, gpu, "a", 0.001)
        gpu.done = gpu.asked
        watch.collect()
    assert len(times) == 1000 and gpu.events == 2


def test_each_device_has_its_own_events(gpu, watch, times):
    span(watch, gpu, "far behind", 0.1, OTHER_GPU)
    gpu.work(-0.1)
    span(watch, gpu, "a", 0.05)
    gpu.done = 0.05
    watch.collect()
    assert times == [("a", 0.05)]
    span(watch, gpu, "b", 0.1, OTHER_GPU)  # not with an event of the first device
    watch.collect(wait=True)
    assert [key for key, _ in times] == ["a", "far behind", "b"]


def test_no_event_is_touched_while_a_graph_is_captured(gpu, watch, times):
    span(watch, gpu, "before", 0.1)
    gpu.capturing = True
    span(watch, gpu, "captured", 0.1)
    watch.collect()
    gpu.capturing = False
    watch.collect(wait=True)
    assert [key for key, _ in times] == ["before"]


def test_timing_stops_after_a_failing_event(gpu, watch, times, caplog, monkeypatch):
    def fails(event, stream):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    span(watch, gpu, "a", 0.1)
    monkeypatch.setattr(Event, "record", fails)
    for _ in range(3):
        span(watch, gpu, "b", 0.1)
    watch.collect(wait=True)
    assert caplog.text.count("illegal memory access") == 1 and times == []


def test_other_devices_are_not_timed(watch, times):
    assert watch.start(torch.device("meta")) is None
    watch.stop(None, "a")
    watch.collect(wait=True)
    assert times == []
