"""How the Hopper kernel reads tensors of any memory layout; torch stands in for the copy engine."""

import pytest
import torch

pytest.importorskip("triton.experimental.gluon.nvidia.hopper", exc_type=ImportError)
from radial_core.kernels import hopper_launch  # noqa: E402

BLOCK, HEAD_DIM = 128, 64


def qkv(batch, tokens, heads):
    return torch.randn(batch, tokens, heads, HEAD_DIM, dtype=torch.bfloat16)


def heads_first(x):
    return x.transpose(1, 2).contiguous().transpose(1, 2)


def third_of_qkv(x):
    return torch.stack([x, x, x], dim=2)[:, :, 1]


def tokens_of_a_longer_one(x):
    return torch.cat([x, torch.full_like(x[:, :40], torch.nan)], dim=1)[:, : x.shape[1]]


def after_other_tokens(x):
    return torch.cat([x[:, :8], x], dim=1)[:, 8:]


def batch_innermost(x):
    return x.permute(1, 0, 2, 3).contiguous().permute(1, 0, 2, 3)


def read(x, matrix, box, row, column):
    """A box of a matrix, as read by the copy engine: zero outside."""
    rows, columns = matrix.shape
    tile = torch.zeros(box, dtype=x.dtype)
    flat = torch.as_strided(x, matrix.shape, matrix.strides)
    tile[: rows - row, : columns - column] = flat[row : row + box[0], column : column + box[1]]
    return tile


@pytest.mark.parametrize(
    "batch, tokens, heads", [(2, 300, 3), (1, 300, 3), (2, 256, 1), (1, 100, 1)]
)
@pytest.mark.parametrize(
    "change",
    [
        lambda x: x,
        heads_first,
        third_of_qkv,
        tokens_of_a_longer_one,
        after_other_tokens,
        batch_innermost,
    ],
    ids=lambda f: f.__name__,
)
def test_reads_each_block_or_refuses(change, batch, tokens, heads):
    x = change(qkv(batch, tokens, heads))
    loads = hopper_launch.loads(x, x, x, BLOCK)
    if loads is None:
        assert change in (tokens_of_a_longer_one, after_other_tokens, batch_innermost)
        return
    (by_batch, by_head, columns) = loads.matrices[1].steps
    assert loads.steps == (by_batch, by_head, columns) * 3
    for b in range(batch):
        for h in range(heads):
            for first in range(0, tokens, BLOCK):
                row = b * by_batch + h * by_head + first
                tile = read(x, loads.matrices[1], loads.boxes[1], row, h * columns)
                count = min(BLOCK, tokens - first)
                assert torch.equal(tile[:count], x[b, first : first + count, h])
                assert tile.isfinite().all()  # what follows is masked, but NaN would spread


@pytest.mark.parametrize("change", [lambda x: x, heads_first, third_of_qkv])
@pytest.mark.parametrize("batch, heads", [(1, 1), (1, 3), (2, 1), (2, 3)])
def test_accepts_the_layouts_of_models(change, batch, heads):
    x = change(qkv(batch, 300, heads))
    assert hopper_launch.loads(x, x, x, BLOCK) is not None


def test_accepts_parts_of_one_buffer_of_more_elements_than_32_bits_count():
    """As MiniMax H3 makes q, k and v of 15 s: 109,325 tokens of 3 x 56 heads."""
    width = 56 * 128
    buffer = torch.empty(109_325, 3 * width, dtype=torch.bfloat16, device="meta")
    qkv = [x.view(1, -1, 56, 128) for x in buffer.split(width, dim=-1)]
    assert buffer.numel() > 2**31
    for matrix in hopper_launch.loads(*qkv, BLOCK).matrices:
        assert matrix.shape == (109_325, width) and matrix.strides == (3 * width, 1)


def test_refuses_layouts_that_the_copy_engine_cannot_read():
    x = qkv(1, 256, 2)
    odd = torch.cat([x[..., :1], x], dim=-1)[..., 1:]  # rows of 65 elements
    skipping = torch.stack([x, x], dim=-1)[..., 0]
    unaligned = torch.cat([x.flatten(), x.flatten()])[4 : 4 + x.numel()].view(x.shape)
    for wrong in (odd, skipping, unaligned):
        assert hopper_launch.loads(x, wrong, x, BLOCK) is None
        assert hopper_launch.loads(wrong, x, x, BLOCK) is None
