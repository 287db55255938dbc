"""How fast and exact is each backend, and how much memory does it take, against dense attention?

One call of one transformer block at the sizes of real videos: head_dim 128, bfloat16. Needs an
NVIDIA GPU and measures every kernel library that is installed. Writes attention-GPU.json.

    python benchmarks/attention.py [--cases TEXT ...] [--backends NAME ...] [--results NAME]
"""

import argparse
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import median

import record
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from radial_core import BACKENDS, Plan, RadialPattern, VideoLayout, make_plan
from radial_core.attention import attend, choose_backend, why_not
from radial_core.backends import backend_module
from radial_core.call import Call

HEAD_DIM, DTYPE, DEVICE = 128, torch.bfloat16, torch.device("cuda", 0)
SCALE = HEAD_DIM**-0.5
CALL = Call(DEVICE, DTYPE, HEAD_DIM, 128)
# Layout, heads, and the paper's settings for it (the longest one without its sink).
CASES = {
    "Wan 1.3B 81 f 480p": (VideoLayout(21, 30, 52), 12, RadialPattern(0.2, 1)),
    "Wan 14B 81 f 720p": (VideoLayout(21, 45, 80), 40, RadialPattern(0.2, 1)),
    "HunyuanVideo 117 f 768p": (VideoLayout(30, 48, 80), 24, RadialPattern(0.95, 0)),
    "HunyuanVideo 509 f 720p": (VideoLayout(128, 45, 80), 24, RadialPattern(1.0, 0)),
}
SECONDS, MOST_RUNS = 0.7, 20  # of each measurement
SLOW = 100_000  # from this many tokens on the slowest backends are left out


def bench(name: str, only: list[str] | None) -> dict:
    layout, heads, pattern = CASES[name]
    random = torch.Generator(DEVICE).manual_seed(0)
    shape = (1, layout.tokens, heads, HEAD_DIM)
    qkv = [torch.randn(shape, dtype=DTYPE, device=DEVICE, generator=random) for _ in range(3)]
    plan = make_plan(pattern, layout, DEVICE)
    everything = make_plan(replace(pattern, sink_frames=layout.frames), layout, DEVICE)
    print(f"{name}: {layout.tokens:,} tokens, {heads} heads, {plan.density:.1%} kept", flush=True)
    rows = []
    for backend, kept, run in [
        *radial_runs(plan),
        *dense_runs(everything, layout.tokens),
        *comfyui_sparse_runs(everything),
    ]:
        if only and backend not in only:
            continue
        try:
            row = {"backend": backend, **measure(run, qkv, kept)}
        except Exception as error:
            print(f"  {backend}: {type(error).__name__}: {str(error)[:300]}", flush=True)
            continue
        if "sol_attn" in backend:
            row["tflops"] = None  # it chooses its own blocks
        rows.append(row)
        print("  " + "  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    return {
        "name": name,
        "tokens": layout.tokens,
        "heads": heads,
        "density": round(plan.density, 4),
        "auto": choose_backend("auto", CALL, layout.tokens),
        "rows": rows,
    }


def radial_runs(plan: Plan):
    """(name, plan, run) for each backend that works here."""
    names = [name for name in BACKENDS if name != "reference"]
    if plan.tokens >= SLOW:
        names.remove("sdpa")
    for name in ("auto", *names):
        if name != "auto" and (reason := why_not(name, CALL)):
            print(f"  {name}: {reason}", flush=True)
            continue
        fresh = replace(plan)  # without another backend's cached data
        yield name, fresh, partial(run_backend, name, fresh)
    if why_not("triton", CALL) is None:
        from radial_core.kernels import portable_launch as portable

        tiles, lists = portable.Tiles(128, 64, 4, 2), (plan.indptr, plan.indices, plan.order, 128)
        yield (
            "triton, portable kernel",
            plan,
            lambda q, k, v: portable.run(tiles, q, k, v, *lists, SCALE, False)[0],
        )


def run_backend(name: str, plan: Plan, q, k, v) -> torch.Tensor:
    out, _, ran = attend(q, k, v, plan, name)
    if name not in ("auto", ran):
        raise RuntimeError(f"{ran} ran in its place")
    return out


def dense_runs(everything: Plan, tokens: int):
    for name, backend in (
        ("dense-sdpa-flash", SDPBackend.FLASH_ATTENTION),
        ("dense-sdpa-cudnn", SDPBackend.CUDNN_ATTENTION),
    ):

        def run(q, k, v, backend=backend):
            with sdpa_kernel(backend):
                q, k, v = (x.transpose(1, 2) for x in (q, k, v))
                return scaled_dot_product_attention(q, k, v, scale=SCALE).transpose(1, 2)

        yield name, everything, run
    for name in ("flash_attention", "triton"):
        module = backend_module(name)
        if reason := module.why_not_dense(CALL):
            print(f"  dense-{name}: {reason}", flush=True)
            continue
        dense = module.dense
        yield f"dense-{name}", everything, lambda q, k, v, f=dense: f(q, k, v, SCALE)
    if tokens < SLOW:
        yield "auto at density 1", everything, partial(run_backend, "auto", everything)


def comfyui_sparse_runs(everything: Plan):
    """ComfyUI's own sparse kernel, with its node's default threshold."""
    try:
        from comfy_kitchen import sol_attn, sol_attn_is_available
    except ImportError:
        return
    if sol_attn_is_available(DEVICE):
        yield (
            "comfy-kitchen sol_attn (int8, tau 1.3), error against dense",
            everything,
            lambda q, k, v: sol_attn(q, k, v, tau=1.3, scale=SCALE),
        )


def measure(run: Callable, qkv: list[torch.Tensor], kept: Plan) -> dict:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    run(*qkv)  # compiles, and fills caches
    torch.cuda.reset_peak_memory_stats()
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    out = run(*qkv)
    last.record()
    torch.cuda.synchronize()
    times = [first.elapsed_time(last)]
    peak = torch.cuda.max_memory_allocated() - before - out.numel() * out.element_size()
    lists = 4 * (kept.indices.numel() + kept.indptr.numel())
    error = relative_error(out, *qkv, kept)
    if times[0] < 1e3 * SECONDS:
        runs = min(MOST_RUNS, 1 + int(1e3 * SECONDS / times[0]))
        times = milliseconds(partial(run, *qkv), runs)
    ms = median(times)
    flops = 4 * HEAD_DIM * kept.block_size**2 * kept.indices.numel() * out.shape[2]
    return {
        "ms": round(ms, 3),
        "tflops": round(flops / ms / 1e9, 1),
        "relative_error": float(f"{error:.3g}"),
        "peak_extra_mib": round((peak + lists) / 2**20, 1),
        "host_us": host_us(partial(run, *qkv)) if ms < 300 else None,
        "runs": len(times),
    }


def milliseconds(run: Callable, runs: int) -> list[float]:
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(runs)]
    for first, last in events:
        first.record()
        run()
        last.record()
    torch.cuda.synchronize()
    return [first.elapsed_time(last) for first, last in events]


def host_us(run: Callable) -> int:
    """Microseconds until a call returns, while the GPU is busy with earlier calls."""
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    torch.cuda.synchronize()
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", nargs="*", default=[""], help="parts of their names")
    parser.add_argument("--backends", nargs="*", help="only these rows")
    parser.add_argument("--results", default=f"attention-{record.gpu_name()}")
    given = parser.parse_args()
    names = [name for name in CASES if any(word in name for word in given.cases)]
    cases = []
    for name in names:
        cases.append(bench(name, given.backends))
        record.save(given.results, cases)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="  %(message)s")
    main()
