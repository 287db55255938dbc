"""q, k and v that are parts of one buffer of more than 2**31 elements.

In MiniMax H3 they are that from about 14 s on at 1344 x 768: a token has 3 x 56 heads of 128. The
last tokens are further from the first than 32 bits count, though q alone is not that large.
"""

import pytest
import torch
from test_backends import DEVICE, KERNELS, relative_rms, skip_unless
from test_eight_bits_long import true_rows

from radial_core import RadialPattern, VideoLayout, dense, make_plan, radial_attention
from radial_core.backends import ranking as rankings

LAYOUT = VideoLayout(107, 24, 42, prefix=1469)  # 15 s, 256 tokens of text, and sound
HEADS, HEAD_DIM = 56, 128
USED = 2  # of the heads, the last ones: kernels then compute less, at the same distances
BOUND = 5e-3  # of bfloat16, as in test_backends.py
NEEDED = 7e9  # bytes


def parts(layout=LAYOUT, heads=HEADS):
    """The last heads of q, k and v (1, s, 2, 128), with the strides of H3's calls."""
    width = heads * HEAD_DIM
    buffer = torch.empty(layout.tokens, 3 * width, dtype=torch.bfloat16, device=DEVICE)
    qkv = [x.view(1, -1, heads, HEAD_DIM)[:, :, -USED:] for x in buffer.split(width, dim=-1)]
    for x in qkv:
        x.normal_()
    return qkv


def check_rows(out, q, k, v, plan):
    """Of text and sound, of a frame in the middle, and of the last whole block."""
    for block in (0, plan.blocks // 2, plan.blocks - 2):
        rows = slice(block * plan.block_size, (block + 1) * plan.block_size)
        for head in range(USED):
            truth = true_rows(q, k, v, plan, block, head)
            assert relative_rms(out[0, rows, head], truth) < BOUND


@pytest.fixture
def qkv():
    if torch.cuda.mem_get_info(DEVICE)[0] < NEEDED:
        pytest.skip(f"needs {NEEDED / 1e9:g} GB")
    q, k, v = parts()
    assert q.shape[1] * q.stride(1) > 2**31 > q.shape[1] * HEADS * HEAD_DIM
    return q, k, v


@pytest.mark.parametrize("block_size", [64, 128])
@pytest.mark.parametrize("backend", KERNELS)
def test_sparse(qkv, backend, block_size):
    skip_unless(backend, torch.bfloat16, HEAD_DIM, block_size)
    plan = make_plan(RadialPattern(1.0, 1, block_size), LAYOUT, DEVICE)
    check_rows(radial_attention(*qkv, plan, backend), *qkv, plan)


def test_dense_as_it_is_chosen(qkv):
    everything = make_plan(RadialPattern(4.0, LAYOUT.frames), LAYOUT, DEVICE)
    out, name = dense.dense_attention(*qkv)
    assert name == "sdpa" or name in rankings.DENSE[torch.cuda.get_device_capability()[0]]
    check_rows(out, *qkv, everything)
