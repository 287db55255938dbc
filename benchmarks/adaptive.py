"""What do adaptive lists cost: the look, unpacking them, calls with them, and the repair after?

One call of one transformer block at the sizes of real videos, head_dim 128, bfloat16, the presets'
settings. q and k are random, but alike in runs of 32 tokens, so that heads have blocks to choose.
Writes adaptive-GPU.json.

    python benchmarks/adaptive.py [--quick] [--cases TEXT ...]
    python benchmarks/adaptive.py --tiles    the block mass kernel with other tiles; writes nothing
    python benchmarks/adaptive.py --tiny     a small case, also on a CPU; writes nothing

Takes under a minute on an H100.
"""

import argparse
from collections.abc import Callable
from statistics import median

import record  # puts the repository on the path
import torch
from attention_case import CASES
from attention_measure import DEVICE, DTYPE, HEAD_DIM, ON_GPU, SCALE, milliseconds

from radial_core import Plan, RadialPattern, VideoLayout, make_plan
from radial_core.adaptive.lists import look
from radial_core.adaptive.mass import EVERY, asked, block_mass
from radial_core.adaptive.repair import repair, repaired
from radial_core.attention import attend, why_not
from radial_core.call import Call
from radial_core.dense import dense_attention

TINY = {"tiny": (VideoLayout(5, 8, 16), 2, RadialPattern(0.2, 1))}
MODEL_BLOCKS = {"Wan 1.3B": 30, "Wan 14B": 40, "HunyuanVideo": 60, "tiny": 2}
BUDGETS = {"": 1.0, "_067": 0.67}
PRECISIONS = {"exact": "auto", "8 bit": "triton_int8"}
ALIKE, STRENGTH = 32, 1.5  # tokens, and how much stronger than the noise is what they share
MOST_RUNS, MS_OF_EACH = 10, 400
CANDIDATES = (  # queries and keys of a step, warps, stages
    *((64, 128, 4, 2), (64, 128, 4, 3), (64, 128, 4, 4), (64, 64, 4, 2), (64, 64, 4, 3)),
    *((64, 64, 4, 4), (128, 128, 8, 2), (128, 128, 8, 3), (128, 64, 8, 3), (128, 64, 4, 3)),
)


def draw(tokens: int, heads: int) -> list[torch.Tensor]:
    """q, k and v: (1, tokens, heads, HEAD_DIM), always the same."""
    random = torch.Generator(DEVICE).manual_seed(0)

    def noise(length: int) -> torch.Tensor:
        shape = (length, heads, HEAD_DIM)
        return torch.randn(shape, dtype=DTYPE, device=DEVICE, generator=random)

    q, k, v = (noise(tokens) for _ in range(3))
    for x in (q, k):
        x += STRENGTH * noise(-(-tokens // ALIKE)).repeat_interleave(ALIKE, dim=0)[:tokens]
    return [x[None] for x in (q, k, v)]


def bench(name: str, layout: VideoLayout, heads: int, pattern: RadialPattern, quick: bool) -> dict:
    q, k, v = draw(layout.tokens, heads)
    plan = make_plan(pattern, layout, DEVICE)
    dense = dense_attention(q, k, v)[1]
    lists = {suffix: look(q[0], k[0], plan, budget) for suffix, budget in BUDGETS.items()}
    adaptive = lists[""]
    model_blocks = next(n for part, n in MODEL_BLOCKS.items() if name.startswith(part))

    def ms(run: Callable) -> float:
        return measured(run, 1 if quick else MOST_RUNS)

    case = {
        "name": name,
        "tokens": layout.tokens,
        "heads": heads,
        "density": round(plan.density, 4),
        "attended": [round(x, 4) for x in adaptive.attended.tolist()],
        "attended_067": round(lists["_067"].attended[0].item(), 4),
        "dense": dense,
        "dense_ms": ms(lambda: dense_attention(q, k, v)),
        "mass_ms": ms(lambda: block_mass(q[0], k[0], plan.block_size)),
        "look_ms": ms(lambda: look(q[0], k[0], plan)),
        "look_peak_mib": peak_mib(lambda: look(q[0], k[0], plan)),
        "unpack_ms": ms(adaptive.plan),
        "lists_mib": round(adaptive.bytes / 2**20, 2),
        "model_blocks": model_blocks,
        "model_lists_mib": round(model_blocks * adaptive.bytes / 2**20),
    }
    plans = {"radial": plan} | {f"adaptive{key}": each.plan() for key, each in lists.items()}
    video = repaired(layout, plan.block_size)
    out = attend(q, k, v, plans["adaptive"])[0]
    case["repair_ms"] = ms(lambda: repair(q, k, v, out, video))
    rows = [
        sparse_row(precision, backend, plans, (q, k, v), ms, case["repair_ms"])
        for precision, backend in PRECISIONS.items()
        if backend == "auto"
        or why_not(backend, Call(DEVICE, DTYPE, HEAD_DIM, plan.block_size, per_head=True)) is None
    ]
    return case | {"sparse": rows}


def sparse_row(
    precision: str, backend: str, plans: dict[str, Plan], qkv: tuple, ms: Callable, repair_ms: float
) -> dict:
    """The time of a call with each of the plans, the backend that took it, and what the repair is
    of the call with adaptive lists."""
    row = {"precision": precision}
    for name, plan in plans.items():
        row[f"{name}_backend"] = attend(*qkv, plan, backend)[2]
        row[f"{name}_ms"] = ms(lambda plan=plan: attend(*qkv, plan, backend))
    return row | {"repair_share": round(repair_ms / row["adaptive_ms"], 4)}


def measured(run: Callable, most_runs: int) -> float:
    """Median milliseconds."""
    run()
    times = milliseconds(run, 1)
    if more := min(most_runs, int(MS_OF_EACH / times[0])) - 1:
        times = milliseconds(run, max(1, more))
    return round(median(times), 3)


def peak_mib(run: Callable) -> float | None:
    """The most memory that a call takes beside what it returns."""
    if not ON_GPU:
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    kept = run()
    torch.cuda.synchronize()
    return round((torch.cuda.max_memory_allocated() - before - kept.bytes) / 2**20)


def show(case: dict):
    seen, radial = (f"{x:.1%}" for x in case["attended"])
    print(
        f"{case['name']}: {case['density']:.1%} kept; attended {radial} radial, {seen} adaptive, "
        f"{case['attended_067']:.1%} at 0.67\n"
        f"  dense {case['dense_ms']} ({case['dense']})  mass {case['mass_ms']}  "
        f"look {case['look_ms']} ms, {case['look_peak_mib']} MiB  unpack {case['unpack_ms']} ms  "
        f"lists {case['model_lists_mib']} MiB  repair {case['repair_ms']} ms"
    )
    for row in case["sparse"]:
        ways = ("radial", "adaptive", "adaptive_067")
        figures = (f"{way} {row[f'{way}_ms']} ({row[f'{way}_backend']})" for way in ways)
        figures = f"{'  '.join(figures)}  repair {row['repair_share']:.1%} of adaptive"
        print(f"  {row['precision']}: {figures}", flush=True)


def try_tiles(name: str, layout: VideoLayout, heads: int, pattern: RadialPattern):
    """Prints the time of the block mass kernel, with its softmax, for each of the tiles."""
    from radial_core.kernels import block_mass_launch
    from radial_core.kernels.portable_launch import Tiles

    q, k, _ = (x[0] for x in draw(layout.tokens, heads))
    size = pattern.block_size
    queries = q[asked(layout.tokens, size, DEVICE)]
    tera = 2 * HEAD_DIM * queries.shape[0] * layout.tokens * heads / 1e12
    print(f"{name}: queries, keys, warps, stages -> ms, TFLOP/s")
    for tiles in CANDIDATES:
        try:
            rest = (size // EVERY, size, SCALE, Tiles(*tiles))
            ms = measured(lambda rest=rest: block_mass_launch.run(queries, k, *rest), MOST_RUNS)
            print(f"{tiles}: {ms}, {1000 * tera / ms:.0f}", flush=True)
        except Exception as error:
            print(f"{tiles}: {type(error).__name__}: {str(error)[:150]}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="each call once")
    parser.add_argument("--tiles", action="store_true", help="the block mass kernel's tiles")
    parser.add_argument("--tiny", action="store_true", help="a small case; nothing is written")
    parser.add_argument("--cases", nargs="*", default=[""], help="parts of their names")
    given = parser.parse_args()
    if not ON_GPU and not given.tiny:
        parser.error("it needs a GPU, and torch finds none")
    if given.tiles:
        name = "tiny" if given.tiny else "Wan 14B 81 f 720p"
        return try_tiles(name, *(CASES | TINY)[name])
    cases = []
    every = TINY if given.tiny else CASES
    for name in [name for name in every if any(part in name for part in given.cases)]:
        with torch.inference_mode():
            cases.append(bench(name, *every[name], given.quick))
        show(cases[-1])
        if not given.tiny:
            record.save(f"adaptive-{record.gpu_name()}", cases)


if __name__ == "__main__":
    main()
