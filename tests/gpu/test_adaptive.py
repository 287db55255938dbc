"""Adaptive lists at real sizes: their kernels against torch, and what attention makes of them."""

import pytest
import torch
from test_backends import DEVICE, HALVES, dense_error, relative_rms
from test_parts_of_qkv import HEAD_DIM, NEEDED, parts

from radial_core import RadialPattern, VideoLayout, make_plan
from radial_core.adaptive import bits, mass, proven, repair
from radial_core.adaptive.bits import packed
from radial_core.adaptive.choice import Rows, most_attended, rows_of
from radial_core.adaptive.lists import look
from radial_core.adaptive.mass import asked, block_mass, by_torch
from radial_core.attention import attend
from radial_core.call import Call
from radial_core.reference import reference_attention

pytest.importorskip("triton")
on_halves = pytest.mark.parametrize("dtype", HALVES.values(), ids=HALVES)
on_block_sizes = pytest.mark.parametrize("block_size", [64, 128])


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    print(f"torch.manual_seed({torch.seed()})")  # shown if a test fails
    if reason := mass._why_not_kernel(Call(DEVICE, torch.bfloat16, HEAD_DIM, 128)):
        pytest.skip(reason)
    monkeypatch.setattr(proven, "_verdicts", {})


def draw(tokens, heads, head_dim, dtype):
    q, k, v = torch.randn(3, tokens, heads, head_dim, device=DEVICE).unbind(0)
    return [x.to(dtype) for x in (3 * q, k, v)]


def check_mass(q, k, block_size, bound=1e-3):
    """The kernel's against torch's in float32, on the CPU: there it is no TF32."""
    queries, scale = q[asked(len(q), block_size, DEVICE)], q.shape[-1] ** -0.5
    found = mass._kernel(queries, k, block_size // mass.EVERY, block_size, scale).cpu()
    rest = (block_size // mass.EVERY, block_size, scale)
    assert relative_rms(found, by_torch(queries.cpu().float(), k.cpu().float(), *rest)) < bound


@on_halves
@on_block_sizes
@pytest.mark.parametrize("head_dim", [64, 80, 96, 128])
def test_the_mass_kernel(head_dim, block_size, dtype):
    q, k, _ = draw(12_345, 2, head_dim, dtype)
    check_mass(q, k, block_size)


@on_block_sizes
def test_rows_and_heads_in_turn(monkeypatch, block_size):
    from radial_core.kernels import block_mass_launch

    monkeypatch.setattr(block_mass_launch, "LOGARITHMS_AT_ONCE", 2**17)
    q, k, _ = draw(5_000, 3, 64, torch.bfloat16)
    check_mass(q, k, block_size)


def test_k_that_is_a_part_of_a_long_buffer():
    """Its last tokens are further from the first than 32 bits count."""
    if torch.cuda.mem_get_info(DEVICE)[0] < NEEDED:
        pytest.skip(f"needs {NEEDED / 1e9:g} GB")
    q, k, _ = (x[0] for x in parts())
    assert len(k) * k.stride(0) > 2**31
    far = block_mass(q, k, 128)
    near = block_mass(q.contiguous(), k.contiguous(), 128)
    assert [*proven._verdicts.values()] == [True] and torch.equal(far, near)
    assert torch.allclose(far.sum(dim=-1), torch.ones_like(far[..., 0]), atol=1e-4)


@pytest.mark.parametrize("blocks", [591, 3600])
def test_the_unpacking_kernel_never_waits(blocks):
    heads, kept_blocks = 2, blocks // 5
    found = torch.rand(heads, blocks, blocks, device=DEVICE)
    lengths = torch.full((blocks,), kept_blocks, device=DEVICE)
    rows = Rows(torch.eye(blocks, dtype=torch.bool, device=DEVICE), lengths, blocks * kept_blocks)
    kept = most_attended(found, rows)
    stored = packed(kept)
    indptr = torch.arange(heads * blocks + 1, dtype=torch.int32, device=DEVICE) * kept_blocks
    indptr = indptr.unfold(0, blocks + 1, blocks)
    bits.unpacked_indices(stored, indptr, heads * rows.total)  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        indices = bits.unpacked_indices(stored, indptr, heads * rows.total)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(indices, kept.nonzero()[:, -1].int())


@on_halves
@pytest.mark.parametrize("head_dim", [64, 80, 96, 128])
def test_the_repair_never_waits_and_equals_that_on_the_cpu(head_dim, dtype):
    q, k, v = (x[None] for x in draw(12_345, 2, head_dim, dtype))
    out, video = v.flip(1).contiguous(), slice(7, 12_000)
    expected = [x.cpu().float() for x in (q, k, v, out)]
    repair.repair(*expected, video)
    before = out.clone()
    repair.repair(q, k, v, out, video)  # compiles
    assert repair.KERNEL in [name for name, _ in proven._verdicts]
    assert all(proven._verdicts.values())
    out.copy_(before)
    torch.cuda.set_sync_debug_mode("error")
    try:
        repair.repair(q, k, v, out, video)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert relative_rms(out.cpu().float(), expected[3]) < 4 * torch.finfo(dtype).eps


def test_the_kernels_prove_themselves():
    """In the dtypes and sizes that calls have."""
    for dtype in HALVES.values():
        for head_dim in (64, 80, 96, 128):
            for block_size in (64, 128):
                assert mass._fault(Call(DEVICE, dtype, head_dim, block_size)) is None
            assert repair._fault(Call(DEVICE, dtype, head_dim, 64)) is None
    assert bits._fault(Call(DEVICE, torch.float16, 64, 64)) is None


def test_of_equals_the_first_are_kept_on_a_gpu_too():
    blocks = 591
    lengths = torch.full((blocks,), 100, device=DEVICE)
    backbone = torch.zeros(blocks, blocks, dtype=torch.bool, device=DEVICE)
    ones = torch.ones(2, blocks, blocks, device=DEVICE)
    kept = most_attended(ones, Rows(backbone, lengths, 100 * blocks))
    assert kept[..., :100].all() and not kept[..., 100:].any()


@on_halves
@on_block_sizes
@pytest.mark.parametrize("budget", [1.0, 0.67])
def test_attention_over_the_lists_of_a_look(budget, block_size, dtype):
    layout = VideoLayout(11, 9, 15, prefix=77, suffix=60)
    q, k, v = draw(layout.tokens, 3, 128, dtype)
    radial = make_plan(RadialPattern(0.2, 1, block_size), layout, DEVICE)
    with torch.inference_mode():
        lists = look(q, k, radial, budget)
        plan = lists.plan()
        out = attend(q[None], k[None], v[None], plan)[0]
    assert [*proven._verdicts.values()] == [True, True]  # both kernels ran
    assert torch.equal(plan.block_mask().sum(dim=-1)[0], rows_of(radial, budget).lengths)
    truth = reference_attention(q[None], k[None], v[None], plan)
    assert relative_rms(out, truth) <= 1.5 * dense_error(q[None], k[None], v[None])
