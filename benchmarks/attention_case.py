"""One video's attention call, measured in all ways at hand."""

from dataclasses import replace

import torch
from attention_measure import DEVICE, draw, measure
from attention_rows import CALL, KITCHEN_SPARSE, Row, rows

from radial_core import RadialPattern, VideoLayout, make_plan
from radial_core.attention import choose_backend

# Layout, heads, and the paper's settings for it (the longest one without its sink).
CASES = {
    "Wan 1.3B 81 f 480p": (VideoLayout(21, 30, 52), 12, RadialPattern(0.2, 1)),
    "Wan 14B 81 f 720p": (VideoLayout(21, 45, 80), 40, RadialPattern(0.2, 1)),
    "HunyuanVideo 117 f 768p": (VideoLayout(30, 48, 80), 24, RadialPattern(0.95, 0)),
    "HunyuanVideo 509 f 720p": (VideoLayout(128, 45, 80), 24, RadialPattern(1.0, 0)),
}


def bench(
    name: str,
    layout: VideoLayout,
    heads: int,
    pattern: RadialPattern,
    only: tuple[str, ...] | None = None,
) -> dict:
    """The case as it stands in the results. only: the backends to measure; None for all."""
    qkv = draw(layout.tokens, heads)
    plan = make_plan(pattern, layout, DEVICE)
    everything = make_plan(replace(pattern, sink_frames=layout.frames), layout, DEVICE)
    print(f"{name}: {layout.tokens:,} tokens, {heads} heads, {plan.density:.1%} kept", flush=True)
    measured = []
    for row in rows(plan, everything, only):
        measured += measured_row(row, qkv)
    return {
        "name": name,
        "tokens": layout.tokens,
        "heads": heads,
        "density": round(plan.density, 4),
        "auto": choose_backend("auto", CALL, layout.tokens),
        "rows": measured,
    }


def measured_row(row: Row, qkv: list[torch.Tensor], **more) -> list[dict]:
    """The row with its figures and `more`; none, and a line on the screen, if it fails."""
    q, k, v = qkv
    given = [q, k.clone(), v] if row.changes_k else None
    figures = {"backend": row.backend, "precision": row.precision, **more}
    try:
        figures |= measure(row.run, qkv, row.kept, given)
    except Exception as error:
        print(f"  {row.backend}: {type(error).__name__}: {str(error)[:300]}", flush=True)
        return []
    if row.backend in KITCHEN_SPARSE.values():
        figures["tflops"] = None  # it chooses its own blocks
    print("  " + "  ".join(f"{key} {value}" for key, value in figures.items()), flush=True)
    return [figures]
