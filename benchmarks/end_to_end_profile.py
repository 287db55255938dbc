"""Where the time of a forward pass goes: kernels by kind, and the host time of our hook."""

import re
import time
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, record_function

OURS, PASSED_ON = "our hook", "attention that our hook passes on"
ATTENTION = "attention"
HOOK = "ours besides attention"  # copies of layouts, plans
# The first match counts. Other kernels are elementwise: norms, modulation, activation.
KINDS = {
    ATTENTION: r"flash|fmha|sdpa|attend|attention|prefill|sol_attn",
    "linear layers": r"gemm|nvjet|cutlass|xmma|cublas|splitk|convolve|implicit_conv|scudnn|fprop",
    "rope": r"rope|rotary",
    "copies": r"memcpy|memset|copy|catarray|fillfunctor",
}
ELEMENTWISE = "norms and elementwise"
LAUNCH = re.compile(r"cu(da)?(Launch|Memcpy|Memset|Graph)")
TOP = 12


@contextmanager
def watched(override, within: Callable):
    """Calls our hook, and ComfyUI's attention inside it, through within(name, function)."""
    plain = override.attend

    def attend(forward, func, *arguments):
        def passed_on(*given, **more):
            return within(PASSED_ON, lambda: func(*given, **more))

        return within(OURS, lambda: plain(forward, passed_on, *arguments))

    override.attend = attend
    try:
        yield
    finally:
        del override.attend  # back to the class's method


def kernels(call: Callable, override, device: torch.device) -> tuple[dict, torch.Tensor]:
    """GPU seconds in one forward pass by kind of kernel, and what the pass returned."""

    def marked(name, function):
        with record_function(name):
            return function()

    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with watched(override, marked), torch.profiler.profile(activities=activities) as profiler:
        start = time.perf_counter()
        out = call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        wall = time.perf_counter() - start
    by_kind, by_name = _grouped(profiler.events())
    busy = sum(by_kind.values())
    seconds = {kind: round(by_kind[kind] / 1e6, 4) for kind in (*KINDS, ELEMENTWISE, HOOK)}
    seconds["idle"] = round(max(wall - busy / 1e6, 0), 4)
    top = [
        {"kernel": name[:100], "kind": kind, "calls": calls, "s": round(time_us / 1e6, 4)}
        for (name, kind), (time_us, calls) in sorted(by_name.items(), key=lambda x: -x[1][0])[:TOP]
    ]
    return {"wall_s": round(wall, 3), "seconds": seconds, "longest": top}, out


def _grouped(events) -> tuple[Counter, dict]:
    """Microseconds by kind, and (microseconds, calls) by (name, kind)."""
    host = [event for event in events if event.device_type == DeviceType.CPU]
    launched = {event.id: event.time_range.start for event in host if LAUNCH.match(event.name)}
    ours, theirs = (
        [(e.time_range.start, e.time_range.end) for e in host if e.name == name]
        for name in (OURS, PASSED_ON)
    )

    def is_ours(event) -> bool:
        at = launched.get(event.id)
        return at is not None and _within(at, ours) and not _within(at, theirs)

    by_kind, by_name = Counter(), {}
    for event in events:
        if event.device_type != DeviceType.CUDA or event.name in (OURS, PASSED_ON):
            continue
        kind = _kind(event.name)
        if kind != ATTENTION and is_ours(event):
            kind = HOOK
        time_us = event.time_range.elapsed_us()
        by_kind[kind] += time_us
        before, calls = by_name.get((event.name, kind), (0, 0))
        by_name[event.name, kind] = before + time_us, calls + 1
    return by_kind, by_name


def _within(time_us: float, spans: list[tuple[float, float]]) -> bool:
    return any(start <= time_us <= end for start, end in spans)


def _kind(name: str) -> str:
    lower = name.lower()
    return next((kind for kind, words in KINDS.items() if re.search(words, lower)), ELEMENTWISE)


def host_us(call: Callable, override, device: torch.device) -> tuple[float, torch.Tensor]:
    """Microseconds of the host in our hook, without the attention that it passes on.

    Of a second pass: the first of a run makes the plan. Use it with a pass of few blocks: in a long
    one the host waits for room in the GPU's queue.
    """
    call()
    spent = Counter()

    def clocked(name, function):
        start = time.perf_counter()
        try:
            return function()
        finally:
            spent[name] += time.perf_counter() - start

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    with watched(override, clocked):
        out = call()
    return 1e6 * (spent[OURS] - spent[PASSED_ON]), out
