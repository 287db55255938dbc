"""Where the time of a pass on several GPUs goes, on the GPU of ComfyUI's process."""

import re
from collections.abc import Callable

import torch
from end_to_end_profile import ATTENTION, KINDS
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity

CPU_LINEAR = {"aten::addmm", "aten::mm"}


def regions(pass_s: float, run: dict, linear: float) -> dict:
    """Seconds of a pass by what they went into.

    run: of a sampler run with that pass alone, as Record.read has it. linear: seconds.
    """
    totals = run["totals"]
    calls = totals["model_calls"]
    shared = totals.get("gpus") or {}
    found = {
        ATTENTION: (totals["attention_seconds"] or 0.0) / calls,
        "linear": linear,
        "communication": shared.get("communication_seconds", 0.0) / calls,
    }
    found["rest"] = max(pass_s - sum(found.values()), 0.0)
    return {name: round(seconds, 4) for name, seconds in found.items()}


def linear_seconds(call: Callable, device: torch.device) -> tuple[float, torch.Tensor]:
    """Seconds of the matrix products of linear layers in a pass, and what it returned."""
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profiler:
        out = call()
        if on_gpu:
            torch.cuda.synchronize(device)
    events = profiler.events()
    if not on_gpu:
        return 1e-6 * sum(e.self_cpu_time_total for e in events if e.name in CPU_LINEAR), out
    times = (
        event.time_range.elapsed_us()
        for event in events
        if event.device_type == DeviceType.CUDA and is_linear(event.name)
    )
    return 1e-6 * sum(times), out


def is_linear(kernel: str) -> bool:
    """Whether a kernel of a GPU is that of a linear layer; some attention has GEMMs in its name."""
    kernel = kernel.lower()
    first = next((kind for kind, words in KINDS.items() if re.search(words, kernel)), None)
    return first == "linear layers"
