"""Our kernels without a GPU: the portable one in Triton's interpreter, Hopper's only compiled."""

import re

import pytest
import torch
from compiling import output_of

from radial_core import RadialPattern, VideoLayout, make_plan
from radial_core.masks.per_head import MaskPerHead
from radial_core.reference import reference_attention, reference_lse

pytest.importorskip("triton")
from radial_core.kernels import portable_launch  # noqa: E402
from radial_core.kernels.portable_launch import Tiles  # noqa: E402

LAYOUTS = {
    "frames straddle blocks, text on both sides": VideoLayout(3, 7, 9, prefix=3, suffix=50),
    "whole blocks": VideoLayout(5, 4, 16),
    "one block": VideoLayout(2, 3, 5),
}


def relative_rms(x, y):
    return ((x.double() - y).norm() / y.norm()).item()


def check(layout, shape, tiles, block_size=64, change=lambda x: x, scale=1.0, sinks=(0,)):
    """sinks: one for each head, or one for all."""
    batch, heads, head_dim = shape
    dtype = torch.float16  # the interpreter gets bfloat16 wrong
    print(f"torch.manual_seed({torch.seed()})")  # shown if it fails
    q, k, v = torch.randn(3, batch, layout.tokens, heads, head_dim).unbind(0)
    q, k, v = (change(x).to(dtype) for x in (q * scale, k * scale, v))
    masks = tuple(RadialPattern(0.1, sink, block_size) for sink in sinks)
    plan = make_plan(MaskPerHead(masks), layout)
    assert plan.lists == len(sinks)
    lists = (plan.indptr, plan.indices, plan.order, block_size)
    out, lse = portable_launch.run(tiles, q, k, v, *lists, head_dim**-0.5, True)
    assert out.shape == q.shape and out.dtype == dtype and out.is_contiguous()
    assert relative_rms(out, reference_attention(q, k, v, plan)) < torch.finfo(dtype).eps
    assert relative_rms(lse, reference_lse(q, k, plan)) < 1e-6


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("tiles", [Tiles(64, 32, 4, 2), Tiles(32, 64, 4, 2)], ids=str)
def test_portable_equals_the_oracle(layout, tiles):
    check(layout, (2, 1, 64), tiles)


@pytest.mark.parametrize("batch, block_size", [(2, 64), (1, 128)])
def test_portable_walks_a_list_for_each_head(batch, block_size):
    """Frames smaller than a block, text on both sides, a tail."""
    layout = VideoLayout(9, 5, 7, prefix=3, suffix=20)
    check(layout, (batch, 3, 64), Tiles(64, 64, 4, 2), block_size, sinks=(0, 3, 9))


@pytest.mark.parametrize("head_dim", [80, 96, 128])
def test_portable_takes_any_head_dim_of_its_list(head_dim):
    check(LAYOUTS["one block"], (1, 2, head_dim), Tiles(64, 64, 4, 2))


def test_portable_takes_blocks_of_128_and_tiles_that_exceed_them():
    check(VideoLayout(3, 7, 9), (1, 1, 64), Tiles(256, 256, 4, 2), block_size=128)


def test_portable_takes_strides():
    def change(x):
        return torch.stack([x, x], dim=1).transpose(2, 3).contiguous().transpose(2, 3)[:, 1]

    check(LAYOUTS["one block"], (2, 2, 64), Tiles(64, 64, 4, 2), change=change)


def test_portable_takes_large_logits():
    check(LAYOUTS["one block"], (1, 2, 64), Tiles(64, 32, 4, 2), scale=30.0)


def test_the_second_launch_skips_the_dispatch(monkeypatch):
    from radial_core.kernels import launch

    ready = []

    class Kernel:
        def __getitem__(self, grid):
            return lambda *arguments, **options: ready.append((grid, options)) or self

    kernel = Kernel()
    monkeypatch.setattr(launch, "_compiled", {})
    for key in ((1,), (1,), (2,)):
        launch.launch(key, kernel, (1, 1, 1), (), num_warps=4)
    assert [options for _, options in ready] == [{"num_warps": 4}, {}, {"num_warps": 4}]


BLOCK = 128  # keys


@pytest.fixture(scope="module", params=["hopper", "hopper_int8"])
def hopper(request):
    """What the assembler says of a Hopper kernel: needs no GPU, nor an NVIDIA driver."""
    import triton
    from packaging.version import parse

    if not parse("3.6") <= parse(triton.__version__) < parse("4"):
        pytest.skip("Gluon as the kernel needs it came with Triton 3.6")
    return request.param, output_of("compile_hopper.py", request.param).split("==== ")[1:]


def test_the_hopper_kernels_keep_all_in_registers(hopper):
    """But for the 8-bit one with Triton 3.9, and there no more than 1 in 50 instructions."""
    name, programs = hopper
    assert len(programs) == 3
    for program in programs:
        registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", program).groups()
        assert registers == "168" and int(stack) <= (96 if name == "hopper_int8" else 0)


def test_the_hopper_kernels_have_their_products_in_flight_together(hopper):
    """Where the assembler can't prove it safe it waits after each, at half the speed."""
    name, programs = hopper
    product, fewest = ("IGMMA", 40) if name == "hopper_int8" else ("HGMMA", 48)
    for program in programs:
        products = re.findall(r"\b\wGMMA", program)
        assert len(products) >= fewest and set(products) == {product}
        assert program.count("WARPGROUP.DEPBAR") == 8


def test_the_8_bit_hopper_kernel_converts_nothing_and_moves_only_what_a_row_needs(hopper):
    name, programs = hopper
    if name == "hopper":
        pytest.skip("it does")
    for program in programs:
        # Some come of divisions by the number of heads.
        assert len(re.findall(r"\b(I2F|I2FP|F2I)\b", program)) <= 12
        # In the loop and after it, of both warpgroups: 4 of a thread's weights as int8 at a time,
        # and the largest score of each of its two rows.
        assert program.count("PRMT") == 2 * 2 * BLOCK // 2 // 4
        assert program.count("SHFL") <= 2 * 2 * 2 * 2 + 8
