"""How long does it take to make a plan, and how much of the block map does it keep?

On one core. Each case has a new process, so that the first plan of its size is timed too (after a
tiny one, which loads torch's code from disk).
"""

import json
import subprocess
import sys
import time

import record
import torch

from radial_core import RadialPattern, VideoLayout, make_plan

# name, grid in patches, decay, sink, percentage that the authors' released code keeps
CASES = [
    ("HunyuanVideo 117 f 768p", (30, 48, 80), 0.95, 0, 27.46),
    ("Wan 69 f 768p", (18, 48, 80), 0.2, 1, 28.71),
    ("Wan 161 f 768p", (41, 48, 80), 1.0, 1, 26.39),
    ("Wan 81 f 720p", (21, 45, 80), 0.2, 1, 26.2),
    ("HunyuanVideo 253 f 720p", (64, 45, 80), 1.0, 1, 19.17),
    ("HunyuanVideo 509 f 720p", (128, 45, 80), 1.0, 1, 11.63),
    ("Mochi 331 f 480p", (56, 30, 53), 1.0, 1, 23.59),
    ("Mochi 667 f 480p", (112, 30, 53), 1.0, 1, 14.41),
]


def measure(name, grid, decay, sink, released) -> dict:
    torch.set_num_threads(1)
    layout = VideoLayout(*grid)
    make_plan(RadialPattern(), VideoLayout(2, 8, 8))
    first, *again = (timed(RadialPattern(decay + i / 1e6, sink), layout) for i in range(6))
    plan = make_plan(RadialPattern(decay, sink), layout)
    return {
        "name": name,
        "tokens": layout.tokens,
        "first_ms": round(1000 * first, 2),
        "median_ms": round(1000 * sorted(again)[len(again) // 2], 2),
        "plan_mib": round(4 * (plan.indices.numel() + plan.indptr.numel()) / 2**20, 2),
        "kept_percent": round(100 * plan.video_density, 2),
        "released_percent": released,
    }


def timed(pattern, layout) -> float:
    start = time.perf_counter()
    make_plan(pattern, layout)
    return time.perf_counter() - start


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(*CASES[int(sys.argv[1])])))
        sys.exit()
    rows = []
    for i in range(len(CASES)):
        out = subprocess.check_output([sys.executable, __file__, str(i)], text=True)
        rows.append(json.loads(out))
        print(rows[-1])
    record.save("planning-cpu", rows)
