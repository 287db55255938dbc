"""From which length is radial attention faster than the fastest dense attention?

One attention call, 12 heads of 128 in bfloat16, the paper's settings for Wan, each with the fastest
kernel on this GPU. Needs an NVIDIA GPU.
"""

from functools import partial
from statistics import median

import record
import torch
from attention_measure import DEVICE, DTYPE, HEAD_DIM, milliseconds

from radial_core import RadialPattern, VideoLayout, make_plan
from radial_core.attention import attend
from radial_core.dense import dense_attention

HEADS = 12
PATTERN = RadialPattern(decay=0.2, sink_frames=1)
FRAMES = (2, 3, 5, 7, 9, 13, 17, 21)
SIZES = {"256 x 256": (16, 16), "480p": (30, 52), "720p": (45, 80)}


def measure(name: str, frames: int) -> dict:
    layout = VideoLayout(frames, *SIZES[name])
    shape = (1, layout.tokens, HEADS, HEAD_DIM)
    q, k, v = (torch.randn(shape, dtype=DTYPE, device=DEVICE) for _ in range(3))
    plan = make_plan(PATTERN, layout, DEVICE)
    radial, dense = partial(attend, q, k, v, plan), partial(dense_attention, q, k, v)
    *_, backend = radial()
    _, dense_kernel = dense()
    for run in (radial, dense):
        milliseconds(run, 10)
    row = {
        "size": name,
        "latent_frames": frames,
        "tokens": layout.tokens,
        "density": round(plan.density, 3),
        "radial_ms": round(median(milliseconds(radial, 30)), 4),
        "dense_ms": round(median(milliseconds(dense, 30)), 4),
        "backend": backend,
        "dense_kernel": dense_kernel,
    }
    row["speedup"] = round(row["dense_ms"] / row["radial_ms"], 2)
    print(row, flush=True)
    return row


if __name__ == "__main__":
    rows = [measure(name, frames) for name in SIZES for frames in FRAMES]
    record.save(f"crossover-{record.gpu_name()}", rows, heads=HEADS, head_dim=HEAD_DIM)
