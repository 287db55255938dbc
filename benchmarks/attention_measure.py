"""Measures one way to compute attention: time, error against float32, memory, time on the host."""

import time
from collections.abc import Callable
from functools import partial
from statistics import median

import record  # noqa: F401  makes radial_core importable
import torch

from radial_core import Plan

ON_GPU = torch.cuda.is_available()
# Without a GPU only the tests measure, so that they run what a GPU runs.
DEVICE = torch.device("cuda", 0) if ON_GPU else torch.device("cpu")
HEAD_DIM, DTYPE = 128, torch.bfloat16
SCALE = HEAD_DIM**-0.5
SECONDS, MOST_RUNS = 0.7, 20  # of each measurement


def draw(tokens: int, heads: int) -> list[torch.Tensor]:
    """q, k and v: (1, tokens, heads, HEAD_DIM), always the same."""
    random = torch.Generator(DEVICE).manual_seed(0)
    shape = (1, tokens, heads, HEAD_DIM)
    return [torch.randn(shape, dtype=DTYPE, device=DEVICE, generator=random) for _ in range(3)]


def measure(
    run: Callable, qkv: list[torch.Tensor], kept: Plan, given: list[torch.Tensor] | None = None
) -> dict:
    """The figures of a row. run: q, k, v -> out, (b, s, h, d), attention over `kept`.

    given: what `run` gets in place of qkv, equal to them, if it changes its inputs.
    """
    call = partial(run, *(given or qkv))
    _wait()
    before = torch.cuda.memory_allocated()
    call()  # compiles, and fills caches
    if ON_GPU:
        torch.cuda.reset_peak_memory_stats()
    outputs = []
    times = milliseconds(lambda: outputs.append(call()), 1)
    out = outputs.pop()
    peak = torch.cuda.max_memory_allocated() - before - out.numel() * out.element_size()
    lists = 4 * (kept.indices.numel() + kept.indptr.numel())
    error = relative_error(out, *qkv, kept)
    if times[0] < 1e3 * SECONDS:
        times = milliseconds(call, min(MOST_RUNS, 1 + int(1e3 * SECONDS / times[0])))
    ms = median(times)
    return {
        "ms": round(ms, 3),
        "tflops": round(kept_flops(kept, out.shape[2]) / ms / 1e9, 1),
        "relative_error": float(f"{error:.3g}"),
        "peak_extra_mib": round((peak + lists) / 2**20, 1) if ON_GPU else None,
        "host_us": host_us(call) if ms < 300 else None,
        "runs": len(times),
    }


def kept_flops(kept: Plan, heads: int) -> int:
    """FLOPs of both products over the kept blocks."""
    return 4 * HEAD_DIM * kept.block_size**2 * kept.indices.numel() * heads


def milliseconds(run: Callable, runs: int) -> list[float]:
    if not ON_GPU:
        return [1e3 * _seconds(run) for _ in range(runs)]
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(runs)]
    for first, last in events:
        first.record()
        run()
        last.record()
    torch.cuda.synchronize()
    return [first.elapsed_time(last) for first, last in events]


def host_us(run: Callable) -> int:
    """Microseconds until a call returns, while the GPU is busy with earlier calls."""
    seconds = [_seconds(run) for _ in range(10)]
    _wait()
    return round(1e6 * min(seconds))


def relative_error(out, q, k, v, kept: Plan) -> float:
    """Relative RMS error against float32, over some query blocks of the first and last head."""
    size, bounds = kept.block_size, kept.indptr[0].tolist()
    error = total = 0.0
    for p in {0, 1, kept.blocks // 3, kept.blocks // 2, kept.blocks - 2, kept.blocks - 1}:
        blocks = kept.indices[bounds[p] : bounds[p + 1], None].long()
        tokens = (blocks * size + torch.arange(size, device=DEVICE)).flatten()
        tokens = tokens[tokens < kept.tokens]
        rows = slice(p * size, (p + 1) * size)
        for head in (0, q.shape[2] - 1):
            scores = q[0, rows, head].float() @ k[0, tokens, head].float().T * SCALE
            truth = scores.softmax(-1) @ v[0, tokens, head].float()
            error += (out[0, rows, head].float() - truth).square().sum().item()
            total += truth.square().sum().item()
    return (error / total) ** 0.5


def _seconds(run: Callable) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _wait():
    if ON_GPU:
        torch.cuda.synchronize()
