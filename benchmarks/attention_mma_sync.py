"""How fast would our kernels be on an RTX card? The nearest thing to a measurement that we have.

On an H100 or H200 it runs the code that Triton writes for RTX 30 cards, assembled for this chip
(mma_sync.py). The ratio of `int8` to `bf16` is what counts: an RTX card has other clocks, caches
and numbers of cores. Beside them ComfyUI's own dense int8 attention, as it is: it runs the same
instructions. Writes attention-mma-sync-GPU.json.

    python benchmarks/attention_mma_sync.py [--cases TEXT ...]
"""

import argparse
import os
import sys
import tempfile
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
_cache = tempfile.TemporaryDirectory(prefix="triton-mma-sync-")
os.environ["TRITON_CACHE_DIR"] = _cache.name  # before Triton is imported; see mma_sync.py

import mma_sync  # noqa: E402
import record  # noqa: E402
import torch  # noqa: E402
import triton  # noqa: E402
from attention_case import CASES, measured_row  # noqa: E402
from attention_measure import DEVICE, ON_GPU, SCALE, draw  # noqa: E402
from attention_rows import EIGHT_BIT, Row, comfy_kitchen_rows, portable_row  # noqa: E402

from radial_core import Plan, RadialPattern, make_plan  # noqa: E402

NAMES = ("Wan 14B 81 f 720p", "HunyuanVideo 117 f 768p")
HOPPER = 90


def bench(name: str, compiled: list, kept: dict) -> dict:
    layout, heads, pattern = CASES[name]
    qkv, plan = draw(layout.tokens, heads), make_plan(pattern, layout, DEVICE)
    print(f"{name}: {layout.tokens:,} tokens, {heads} heads, {plan.density:.1%} kept", flush=True)
    rows = best_row(bf16_rows(plan), qkv, compiled, kept)
    rows += best_row(int8_rows(plan), qkv, compiled, kept)
    everything = make_plan(RadialPattern(sink_frames=layout.frames), layout, DEVICE)
    for row in comfy_kitchen_rows(everything):
        if row.backend.startswith("dense"):
            rows += measured_row(row._replace(backend="comfy-kitchen int8"), qkv, config=None)
    return {
        "name": name,
        "tokens": layout.tokens,
        "heads": heads,
        "density": round(plan.density, 4),
        "rows": rows,
    }


def bf16_rows(plan: Plan):
    """(tiles, row) of the portable kernel, for each of its configurations."""
    from radial_core.kernels import tuning

    for tiles in tuning.TRITON.candidates[plan.block_size]:
        yield tiles, portable_row(plan, tiles)._replace(backend="bf16")


def int8_rows(plan: Plan):
    """(tiles, row) of the 8-bit kernel, for each of its configurations."""
    from radial_core.kernels import tuning

    for tiles in tuning.INT8.candidates[plan.block_size]:
        run = partial(run_int8, plan, tiles)
        yield tiles, Row("int8", EIGHT_BIT, plan, run)


def run_int8(plan: Plan, tiles, q, k, v) -> torch.Tensor:
    from radial_core.backends import triton_int8

    return triton_int8.run(q, k, v, plan, SCALE, False, config=tiles)[0]


def best_row(rows, qkv, compiled: list, kept: dict) -> list[dict]:
    """The fastest of those that an RTX card could run, with what was compiled for it.

    kept: the kernels of each row so far. Triton compiles nothing twice.
    """
    found = []
    for tiles, row in rows:
        compiled.clear()
        for measured in measured_row(row, qkv, config=list(tiles)):
            kernels = kept.setdefault((row.backend, tiles), [])
            kernels += compiled
            shared = max(kernel.shared for kernel in kernels)
            measured["shared_kib"] = round(shared / 1024, 1)
            measured["compiled"] = mma_sync.evidence(kernels, HOPPER)
            if shared > mma_sync.MOST_SHARED:
                print(f"  left out: {measured['shared_kib']} KiB of shared memory", flush=True)
            else:
                found.append(measured)
    return sorted(found, key=lambda measured: measured["ms"])[:1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", nargs="*", default=[""], help="parts of their names")
    given = parser.parse_args()
    if not ON_GPU or torch.cuda.get_device_capability(DEVICE)[0] != 9:
        parser.error("it needs an H100 or H200")
    mma_sync.report_ampere(triton.runtime.driver.active)
    compiled = mma_sync.assemble_for(HOPPER)
    cases, kept = [], {}
    for name in [name for name in NAMES if any(word in name for word in given.cases)]:
        cases.append(bench(name, compiled, kept))
        record.save(f"attention-mma-sync-{record.gpu_name()}", cases)


if __name__ == "__main__":
    main()
