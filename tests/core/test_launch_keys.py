"""The same key always launches the same binary: it has all that Triton compiles for."""

import random

import pytest
import torch

pytest.importorskip("triton.experimental.gluon.nvidia.hopper", exc_type=ImportError)
from radial_core.kernels import hopper_int8_launch, int8_launch, portable_launch  # noqa: E402
from radial_core.kernels.hopper_launch import TensorDescriptor  # noqa: E402
from radial_core.kernels.launch import HOPPER  # noqa: E402
from radial_core.kernels.portable_launch import Tiles  # noqa: E402

DTYPES = (torch.float16, torch.bfloat16)
KINDS, DRAWS = 60, 100  # of each kind of call, how many times its memory is drawn


def compiled_for(argument):
    """What of an argument Triton compiles for. Of whole numbers it is less: 1, and multiples of 16.
    Here the key has them all.
    """
    if isinstance(argument, torch.Tensor):
        return argument.dtype, argument.data_ptr() % 16 == 0
    if isinstance(argument, TensorDescriptor):  # a descriptor's own numbers are not compiled for
        return argument.base.dtype, argument.block_shape, argument.layout
    return argument if isinstance(argument, int) else type(argument)


def drawn_tensor(draw, shape, dtype):
    """(b, s, h, d), in memory as models and other packs have it."""
    batch, tokens, heads, head_dim = shape
    more = draw.choice((1, 7, 8))
    return draw.choice(
        (
            lambda: torch.empty(shape, dtype=dtype),
            lambda: torch.empty(batch, heads, tokens, head_dim, dtype=dtype).transpose(1, 2),
            lambda: torch.empty(batch, tokens, 3, heads, head_dim, dtype=dtype)[:, :, 1],
            lambda: torch.empty(batch, tokens + more, heads, head_dim, dtype=dtype)[:, more:],
            lambda: torch.empty(shape[1:], dtype=dtype).expand(shape),
            lambda: torch.empty(shape[1:].numel() * batch + more, dtype=dtype)[more:].view(shape),
        )
    )()


@pytest.mark.parametrize(
    "launcher, config",
    [(int8_launch, None), (portable_launch, None), (int8_launch, HOPPER)],
    ids=["int8", "portable", "int8 on Hopper"],
)
def test_a_key_has_all_that_triton_compiles_for(monkeypatch, launcher, config):
    draw, seen, again = random.Random(0), {}, []

    def launch(key, kernel, grid, arguments, **options):
        now = [*map(compiled_for, arguments)], options
        again.append((kernel, key) in seen)
        assert seen.setdefault((kernel, key), now) == now

    for module in (launcher, hopper_int8_launch):
        monkeypatch.setattr(module, "launch", launch)
    for _ in range(KINDS):
        block_size, head_dim = 128 if config else draw.choice((64, 128)), draw.choice((64, 128))
        tokens, heads = draw.choice((1, 16, 64, 65, 300, 1025)), draw.choice((1, 3, 16))
        shape = torch.Size((draw.choice((1, 2)), tokens, heads, head_dim))
        dtype, blocks = draw.choice(DTYPES), -(-tokens // block_size)
        lists = [torch.empty(n, blocks + 1, dtype=torch.int32) for n in (1, heads)]
        if launcher is int8_launch:
            lists.append(torch.empty(1, 2, dtype=torch.int32))  # of a dense call
        order = torch.empty(blocks, dtype=torch.int32)
        for _ in range(DRAWS):
            monkeypatch.setattr(int8_launch, "CODES_AT_ONCE", draw.choice((1, 2**18, 2**30)))
            tiles, lse = Tiles(64, draw.choice((64, 128)), 4, 2), draw.random() < 0.5
            qkv = [drawn_tensor(draw, shape, dtype) for _ in range(3)]
            scale = draw.random()
            launcher.run(
                config or tiles, *qkv, draw.choice(lists), order, order, block_size, scale, lse
            )
    assert sum(again) > 100
