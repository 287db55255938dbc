"""Seconds of a forward pass, and of its transformer blocks."""

import time
from collections.abc import Callable

import torch

SECONDS = 4  # a short forward pass is repeated for this long


def now(device: torch.device) -> float:
    """The time in seconds, after the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def timed(call: Callable, device: torch.device) -> tuple[list[float], torch.Tensor]:
    """The seconds of each run of a forward pass, and its output."""
    seconds = []
    while not seconds or sum(seconds) + seconds[-1] < SECONDS:
        start = now(device)
        out = call()
        seconds.append(now(device) - start)
    return seconds, out


def timed_by_block(call: Callable, net, names, device: torch.device):
    """Seconds of one forward pass, seconds of its blocks by list, and its output."""
    marks = {name: [] for name in names}
    hooks = []
    for name in names:

        def mark(*_, times=marks[name]):
            times.append(now(device))

        for block in getattr(net, name):
            hooks.append(block.register_forward_pre_hook(mark))
            hooks.append(block.register_forward_hook(mark))
    try:
        start = now(device)
        out = call()
        seconds = now(device) - start
    finally:
        for hook in hooks:
            hook.remove()
    blocks = {
        name: [b - a for a, b in zip(times[::2], times[1::2], strict=True)]
        for name, times in marks.items()
    }
    return seconds, blocks, out


def whole_model(
    seconds: float, blocks: dict[str, list[float]], every: dict[str, int], dense_blocks: int
) -> float:
    """Seconds of a forward pass with all blocks, computed from one with fewer.

    blocks: seconds of the blocks that ran, by list. every: the real number of blocks. dense_blocks:
    how many of the first blocks are dense, unlike the rest.
    """
    total = seconds - sum(sum(times) for times in blocks.values())
    for name, times in blocks.items():
        first = min(dense_blocks, len(times) - 1)
        rest = times[first:]
        total += sum(times[:first]) + (every[name] - first) * sum(rest) / len(rest)
        dense_blocks -= first
    return total
