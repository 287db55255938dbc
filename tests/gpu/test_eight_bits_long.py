"""Approximate backends at the length of a long video: their memory, and the error of some rows."""

import pytest
import torch
from hard_inputs import BAR, relative_rms
from test_backends import DEVICE, skip_unless
from test_eight_bits import HALF, check, on_backends, radial_plan

from radial_core import VideoLayout, radial_attention

__all__ = ["check"]  # a fixture

LONG = VideoLayout(128, 45, 80, suffix=256)  # 461k tokens: HunyuanVideo, 509 frames, 720p
HEADS, HEAD_DIM = 24, 128
EXTRA = 1.5e9  # bytes besides q, k, v and the output
LEAST_MEMORY = 40e9
CHECKED_HEADS = (0, 23)


def draw_long():
    """q, k, v with channel biases, but for head 0; made head by head, as memory is short."""
    random = torch.Generator(DEVICE).manual_seed(0)
    qkv = [
        torch.empty(1, LONG.tokens, HEADS, HEAD_DIM, dtype=HALF, device=DEVICE) for _ in range(3)
    ]
    for x in qkv:
        for head in range(HEADS):
            one = torch.randn(LONG.tokens, HEAD_DIM, generator=random, device=DEVICE)
            if head > 0:
                one += 2 * torch.randn(HEAD_DIM, generator=random, device=DEVICE).sign()
            x[0, :, head] = one
    return qkv


def true_rows(q, k, v, plan, block, head):
    """What the queries of a block attend to, in float64: (queries, head_dim)."""
    size = plan.block_size
    first, last = plan.indptr[0, block : block + 2].tolist()
    keys = plan.indices[first:last, None] * size + torch.arange(size, device=DEVICE)
    keys = keys[keys < plan.tokens]
    query = q[0, block * size : (block + 1) * size, head].double()
    scores = query @ k[0, keys, head].double().T * HEAD_DIM**-0.5
    return scores.softmax(dim=-1) @ v[0, keys, head].double()


@on_backends
def test_a_long_video(check, record_property, backend):
    skip_unless(backend, HALF, HEAD_DIM, 128)
    if torch.cuda.get_device_properties(DEVICE).total_memory < LEAST_MEMORY:
        pytest.skip("needs 40 GB")
    q, k, v = draw_long()
    plan = radial_plan(LONG, sink_frames=1)
    radial_attention(q, k, v, plan, backend)  # compiles, and measures its tiles
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    out = radial_attention(q, k, v, plan, backend)
    torch.cuda.synchronize()
    size = out.numel() * out.element_size()
    extra = torch.cuda.max_memory_allocated() - before - size
    kept = torch.cuda.memory_allocated() - before - size
    record_property("measured", ("extra GB at 461k tokens, 24 heads", extra / 1e9, EXTRA / 1e9))
    assert extra <= EXTRA and kept <= 2**20
    # The last block but one has text, so its queries attend to all keys.
    for block in (0, plan.blocks // 2, plan.blocks - 2):
        rows = slice(block * plan.block_size, (block + 1) * plan.block_size)
        for head in CHECKED_HEADS:
            error = relative_rms(out[0, rows, head], true_rows(q, k, v, plan, block, head))
            check("rows of 461k tokens", error, BAR)
