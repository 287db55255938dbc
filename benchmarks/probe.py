"""How long does it take to measure an attention call, and how exact is a sample of its rows?

Milliseconds and extra memory of radial_core/measure.py for one call as in Radial Attention Probe:
128 tokens, all heads, 10 decays x 3 sinks, without and with adaptive lists at 4 budgets. q, k and v
are random, with attention that falls off in time and space at a different rate for each head. Also
the time to choose the rows (once a run, on the CPU) and, for the paper's settings, the error
estimated from 128 and 1,024 tokens against that of the whole output, radial against dense, by the
fastest kernels.

    python benchmarks/probe.py

Takes under a minute on an H100. Without a GPU it runs a small case and writes nothing.
"""

import statistics
import time

import record  # puts the repository on the path
import torch

from radial_core import RadialPattern, VideoLayout, make_plan, radial_attention
from radial_core.adaptive.sample import sample_lists
from radial_core.dense import dense_attention
from radial_core.measure import choose_rows, measure

BUDGETS = (1.0, 0.75, 0.67, 0.5)
DECAYS, SINKS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0), (0, 1, 2)
HEAD_DIM, TOKENS, MORE_TOKENS, REPEATS = 128, 128, 1024, 3
CASES = [  # name, layout, heads, the paper's settings
    ("Wan 14B 81 f 720p", VideoLayout(21, 45, 80), 40, RadialPattern(0.2, 1)),
    ("HunyuanVideo 509 f 720p", VideoLayout(128, 45, 80, prefix=256), 24, RadialPattern(1.0, 1)),
]
LENGTHS = (30, 16, 16)  # of q's and k's code for frame, row and column: larger is more local
SMALL = [("small", VideoLayout(12, 16, 20, prefix=60), 4, RadialPattern(0.2, 1))]


def structured(layout: VideoLayout, heads: int, device: torch.device):
    """q, k, v (s, h, d), bfloat16."""
    random = torch.Generator(device).manual_seed(0)
    shape = (layout.tokens, heads, HEAD_DIM)
    q, k, v = (
        torch.randn(shape, generator=random, device=device, dtype=torch.bfloat16) for _ in range(3)
    )
    position = torch.arange(layout.tokens, device=device)[:, None] - layout.prefix
    s, width = layout.tokens_per_frame, layout.width
    axes = position // s, position % s // width, position % width
    rate = 1 + torch.arange(heads, device=device) / heads
    for i, (axis, end) in enumerate(zip(axes, (layout.frames, layout.height, width), strict=True)):
        angle = axis * rate * (1.4 / end)  # less than half a turn, so that it never wraps around
        for x, length in ((q, LENGTHS[i]), (k, LENGTHS[i]), (v, 4)):
            x[:, :, 2 * i] = length * angle.cos()
            x[:, :, 2 * i + 1] = length * angle.sin()
    return q, k, v


def run(name, layout, heads, preset, device) -> dict:
    patterns = [RadialPattern(d, s) for s in SINKS for d in DECAYS]
    start = time.perf_counter()
    rows = choose_rows(layout, patterns, TOKENS).to(device)
    lists = sample_lists(layout, preset, rows.tokens.cpu(), BUDGETS).to(device)
    choosing = time.perf_counter() - start
    q, k, v = structured(layout, heads, device)
    reading, ms, extra = measured(q, k, v, rows, None)
    with_lists, ms_with_lists, extra_with_lists = measured(q, k, v, rows, lists)
    more = measure(q, k, v, choose_rows(layout, [preset], MORE_TOKENS).to(device))
    return {
        "name": name,
        "tokens": layout.tokens,
        "heads": heads,
        "patterns": len(patterns),
        "ms": ms,
        "extra_mib": extra,
        "ms_with_adaptive": ms_with_lists,
        "extra_mib_with_adaptive": extra_with_lists,
        "choosing_rows_ms": round(1000 * choosing),
        "coverage": round(reading.coverage[patterns.index(preset)], 4),
        "error": round(reading.error[patterns.index(preset)], 4),
        f"error_{MORE_TOKENS}_tokens": round(more.error[0], 4),
        "error_all_tokens": round(whole_error(q, k, v, layout, preset), 4),
        "error_adaptive": [round(error, 4) for error in with_lists.error[len(patterns) :]],
    }


def measured(q, k, v, rows, lists):
    """The measurement, its milliseconds, and MiB beyond what was allocated before."""
    measure(q, k, v, rows, lists=lists)  # compiles what there is to compile
    seconds = []
    before, _ = memory(q.device)
    for _ in range(REPEATS):
        start = time.perf_counter()
        reading = measure(q, k, v, rows, lists=lists)  # waits for the GPU
        seconds.append(time.perf_counter() - start)
    _, peak = memory(q.device)
    ms = round(1000 * statistics.median(seconds), 1)
    return reading, ms, round((peak - before) / 2**20)


def memory(device: torch.device) -> tuple[int, int]:
    """Bytes allocated now, and the peak since the last call of this function."""
    if device.type != "cuda":
        return 0, 0
    allocated = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    return allocated


def whole_error(q, k, v, layout: VideoLayout, pattern: RadialPattern) -> float:
    """Relative RMS error of all of the video's outputs."""
    q, k, v = q[None], k[None], v[None]
    video = slice(layout.prefix, layout.prefix + layout.video_tokens)
    radial = radial_attention(q, k, v, make_plan(pattern, layout, q.device))[:, video]
    dense = dense_attention(q, k, v)[0][:, video]
    squares = [0.0, 0.0]
    for head in range(q.shape[2]):  # one at a time, in float32
        a, b = radial[:, :, head].float(), dense[:, :, head].float()
        squares[0] += (a - b).square().sum().item()
        squares[1] += b.square().sum().item()
    return (squares[0] / squares[1]) ** 0.5


if __name__ == "__main__":
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    results = []
    for case in CASES if on_gpu else SMALL:
        results.append(run(*case, device))
        print(results[-1], flush=True)
    if on_gpu:
        record.save(f"probe-{record.gpu_name()}", results)
