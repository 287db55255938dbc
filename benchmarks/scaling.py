"""Does the time of radial attention grow with the kept blocks, and not with the tokens squared?

On one CPU core, one head of 64, 512 tokens a frame, 8 to 128 frames. Writes figures and a plot.
"""

import time

import record
import torch
from torch.nn.functional import scaled_dot_product_attention

from radial_core import RadialPattern, VideoLayout, make_plan, radial_attention

PATTERN = RadialPattern(decay=0.2, sink_frames=1)
FRAMES = (8, 16, 32, 64, 128)
REPEATS = 7


def best_seconds(run) -> float:
    run()
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def measure(frames: int) -> dict:
    layout = VideoLayout(frames, 16, 32)
    plan = make_plan(PATTERN, layout)
    q, k, v = torch.randn(3, 1, layout.tokens, 1, 64).unbind(0)
    radial = best_seconds(lambda: radial_attention(q, k, v, plan))
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    dense = best_seconds(lambda: scaled_dot_product_attention(q, k, v))
    kept = plan.indices.numel()
    row = {
        "frames": frames,
        "tokens": layout.tokens,
        "kept_blocks": kept,
        "density": round(plan.density, 4),
        "radial_s": round(radial, 4),
        "dense_s": round(dense, 4),
        "radial_us_per_kept_block": round(1e6 * radial / kept, 1),
    }
    print(row)
    return row


def plot(rows: list[dict]):
    import matplotlib.pyplot as plt

    tokens = [row["tokens"] for row in rows]
    last = rows[-1]
    by_blocks = [last["radial_s"] * row["kept_blocks"] / last["kept_blocks"] for row in rows]
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    axes.loglog(tokens, [row["dense_s"] for row in rows], "o-", color="tab:gray", label="dense")
    axes.loglog(tokens, [row["radial_s"] for row in rows], "o-", color="tab:green", label="radial")
    axes.loglog(tokens, by_blocks, ":", color="black", label="in proportion to the kept blocks")
    axes.set(
        xlabel="tokens", ylabel="seconds", title="Attention on one CPU core, 512 tokens a frame"
    )
    axes.set_xticks(tokens, [f"{n:,}" for n in tokens], minor=False)
    axes.minorticks_off()
    axes.legend()
    figure.savefig(record.RESULTS / "scaling-cpu.png", dpi=120)


if __name__ == "__main__":
    torch.set_num_threads(1)  # steadier on a machine with other work
    results = [measure(frames) for frames in FRAMES]
    record.save("scaling-cpu", results, threads=torch.get_num_threads())
    plot(results)
