"""SpargeAttn's backend, with the library in plain torch (fake_spargeattn.py)."""

import gc
import sys

import pytest
import torch
from fake_spargeattn import GPUS, SpargeAttn
from hard_inputs import HARD, draw, error_of
from registering import forget, register

from radial_core import RadialPattern, VideoLayout, make_plan
from radial_core.attention import attend, why_not
from radial_core.backends import reference as oracle
from radial_core.backends import sageattention, spargeattn
from radial_core.call import Call
from radial_core.chunks import heads_at_once
from radial_core.masks.per_head import MaskPerHead
from radial_core.reference import reference_attention

TOLERANCE = spargeattn.ACCURACY.tolerance[torch.bfloat16]
CPU = torch.device("cpu")
BLOCK = 128
LAYOUTS = {
    "no tail": VideoLayout(4, 8, 16),
    "a tail of one token": VideoLayout(4, 8, 16, suffix=1),
    "a tail of half a block": VideoLayout(4, 8, 16, suffix=64),
    "a tail of more than half a block": VideoLayout(4, 8, 16, suffix=65),
    "prefix and suffix": VideoLayout(9, 10, 15, prefix=70, suffix=31),
    "frames smaller than a block": VideoLayout(30, 3, 5, prefix=7),
    "one frame": VideoLayout(1, 20, 33, suffix=5),
    "one block": VideoLayout(1, 8, 16),
    "less than a block": VideoLayout(2, 4, 9, suffix=3),
    "less than half a block": VideoLayout(1, 4, 9),
}


@pytest.fixture(params=GPUS)
def library(request, monkeypatch):
    return install(monkeypatch, GPUS[request.param])


def install(monkeypatch, gpu) -> SpargeAttn:
    found = SpargeAttn(gpu)
    monkeypatch.setitem(sys.modules, "spas_sage_attn", found)
    monkeypatch.setattr(spargeattn, "capability", lambda device: gpu.capability)
    spargeattn._masks.clear()  # plans are cached, and their masks are of one GPU
    return found


def plan_of(layout, per_head=False):
    pattern = RadialPattern(0.2, 1, BLOCK)
    mask = MaskPerHead((pattern, RadialPattern(0.05, 0, BLOCK))) if per_head else pattern
    return make_plan(mask, layout)


def inputs(layout, batch=1, head_dim=64, dtype=torch.bfloat16, heads=2):
    return draw("normal", layout, (batch, heads, head_dim), dtype)


def check(q, k, v, plan):
    before = [x.clone() for x in (q, k, v)]
    out, lse = spargeattn.run(q, k, v, plan, 0.1, False)
    assert out.shape == q.shape and out.dtype == q.dtype and out.is_contiguous() and lse is None
    assert all(map(torch.equal, before, (q, k, v)))
    truth = reference_attention(q, k, v, plan, 0.1)
    assert ((out.double() - truth).norm() / truth.norm()).item() <= TOLERANCE


def on_tokens(mask, query_block, key_block, tokens):
    """Which keys each query attends to: (..., tokens, tokens)."""
    mask = mask.repeat_interleave(query_block, -2).repeat_interleave(key_block, -1)
    return mask[..., :tokens, :tokens]


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("per_head", [False, True], ids=["one list", "lists per head"])
def test_it_is_near_the_oracle_and_keeps_the_plans_keys(library, layout, per_head):
    plan = plan_of(layout, per_head)
    check(*inputs(layout), plan)
    mask = library.calls[0]["mask_id"]
    kept = on_tokens(mask, *library.gpu.blocks, plan.tokens)
    expected = on_tokens(plan.block_mask(), BLOCK, BLOCK, plan.tokens)
    assert torch.equal(kept[0], expected.expand_as(kept[0]))
    assert mask.any(dim=-1).all()  # a row without blocks is not written


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("head_dim", [64, 128])
def test_batches_dtypes_and_head_dims(library, dtype, head_dim):
    layout = LAYOUTS["prefix and suffix"]
    check(*inputs(layout, 2, head_dim, dtype), plan_of(layout))


@pytest.mark.parametrize(
    "stored",
    [
        lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
        lambda x: torch.stack([x, x], dim=2)[:, :, 0],
        lambda x: torch.cat([x, x], dim=-1)[..., : x.shape[-1]],
        lambda x: torch.stack([x, x], dim=-1)[..., 0],
    ],
    ids=["heads first", "every other token", "parts of rows", "every other channel"],
)
def test_strides(library, stored):
    layout = LAYOUTS["a tail of one token"]
    check(*(stored(x) for x in inputs(layout, 2)), plan_of(layout))


@pytest.mark.parametrize("per_head", [False, True], ids=["one list", "lists per head"])
def test_some_heads_at_a_time_are_the_same(library, monkeypatch, per_head):
    layout = LAYOUTS["prefix and suffix"]
    heads = 2 if per_head else 3
    plan, qkv = plan_of(layout, per_head), inputs(layout, 2, heads=heads)
    together, _ = spargeattn.run(*qkv, plan, 0.1, False)
    monkeypatch.setattr(sageattention, "SCRATCH_BYTES", 1)
    one_by_one, _ = spargeattn.run(*qkv, plan, 0.1, False)
    monkeypatch.setattr(spargeattn, "heads_at_once", lambda heads, each, most: 2)
    by_twos, _ = spargeattn.run(*qkv, plan, 0.1, False)
    assert torch.equal(together, one_by_one) and torch.equal(together, by_twos)
    found = [call["shape"][1] for call in library.calls]
    twos = [2] * 2 + [1] * 2 * (heads - 2)  # the last ones are fewer
    assert found == [heads] * 2 + [1] * 2 * heads + twos


@pytest.mark.parametrize(
    "tokens, heads, expected", [(4_000, 24, 24), (75_600, 40, 6), (460_800, 24, 1)]
)
def test_how_many_heads_at_a_time(tokens, heads, expected):
    """Not more than 2**31 values in any case: the library counts them in 32 bits."""
    blocks = -(-tokens // 128) * -(-tokens // 64)
    each = tokens * 128 * spargeattn.BYTES_OF_EACH_VALUE + blocks * spargeattn.BYTES_OF_EACH_BLOCK
    assert heads_at_once(heads, each, sageattention.SCRATCH_BYTES) == expected
    assert expected * each < 1.1 * sageattention.SCRATCH_BYTES


def test_nothing_is_left_out(library):
    """The library leaves out what is 2**-pvthreshd of the largest weight: 50 by default."""
    layout = LAYOUTS["one block"]
    spargeattn.run(*inputs(layout), plan_of(layout), 0.1, False)
    assert library.calls[0]["pvthreshd"] >= 1e6


@pytest.mark.parametrize("name", HARD)
def test_hard_inputs(library, name):
    layout = LAYOUTS["frames smaller than a block"]
    plan = plan_of(layout)
    q, k, v = draw(name, layout, (1, 2, 128), torch.bfloat16)
    out, _ = spargeattn.run(q, k, v, plan, 128**-0.5, False)
    assert out.isfinite().all()
    if HARD[name].bound is not None and "4 channels" not in name:
        truth = reference_attention(q, k, v, plan, 128**-0.5)
        assert error_of(name, out, truth) <= TOLERANCE


def test_a_channel_of_zeros_stays_one(library):
    layout = LAYOUTS["one frame"]
    q, k, v = inputs(layout)
    v[:, :, 1, 5] = 0
    check(q, k, v, plan_of(layout))
    out, _ = spargeattn.run(q, k, v, plan_of(layout), 0.1, False)
    assert (out[:, :, 1, 5] == 0).all()


def test_the_mask_lives_as_long_as_its_plan(library):
    plan = plan_of(VideoLayout(5, 8, 16))
    spargeattn.run(*inputs(plan.layout), plan, 0.1, False)
    mask = spargeattn._masks[plan]
    spargeattn.run(*inputs(plan.layout), plan, 0.1, False)
    assert spargeattn._masks[plan] is mask and len(spargeattn._masks) == 1
    from radial_core.plan import forget_plans

    forget_plans()
    del plan
    gc.collect()
    assert len(spargeattn._masks) == 0


def test_a_side_stream_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "side")
    monkeypatch.setattr(torch.cuda, "default_stream", lambda device: "default")
    sageattention.refuse_side_streams(CPU)
    with pytest.raises(RuntimeError, match="default stream only"):
        sageattention.refuse_side_streams(torch.device("cuda", 0))


def test_a_side_stream_is_refused_before_the_library_runs(library, monkeypatch):
    def refuse(device):
        raise RuntimeError("a side stream")

    monkeypatch.setattr(sageattention, "refuse_side_streams", refuse)
    layout = LAYOUTS["one block"]
    with pytest.raises(RuntimeError, match="a side stream"):
        spargeattn.run(*inputs(layout), plan_of(layout), 0.1, False)
    assert not library.calls


@pytest.fixture
def ranked(monkeypatch):
    """Registered: SpargeAttn, then the oracle; on a CPU that passes for an RTX 40."""
    forget()
    found = install(monkeypatch, GPUS["RTX 40"])
    monkeypatch.setattr(spargeattn, "_why_not_installed", lambda gpu: None)
    register(monkeypatch, spargeattn=spargeattn, reference=oracle)
    yield found
    forget()


def ran(**options):
    layout = LAYOUTS["prefix and suffix"]
    return attend(*inputs(layout), plan_of(layout), approximate=True, **options)[2]


def test_it_proves_itself_and_runs(ranked):
    assert ran() == "spargeattn"
    assert ran(return_lse=True) == "reference"


def test_one_that_keeps_everything_fails_its_proof(ranked):
    real = ranked.block_sparse_sage2_attn_cuda

    def ignores_the_mask(*arguments, mask_id, **options):
        return real(*arguments, mask_id=torch.ones_like(mask_id), **options)

    ranked.block_sparse_sage2_attn_cuda = ignores_the_mask
    assert ran() == "reference"
    assert "relative error of its output" in why_not(
        "spargeattn", Call(CPU, torch.bfloat16, 64, BLOCK)
    )


def test_one_that_fails_on_import_is_passed_over(ranked, monkeypatch, tmp_path):
    (tmp_path / "spas_sage_attn").mkdir()
    (tmp_path / "spas_sage_attn/__init__.py").write_text("raise ImportError('undefined symbol')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "spas_sage_attn")
    assert ran() == "reference"
    assert "undefined symbol" in why_not("spargeattn", Call(CPU, torch.bfloat16, 64, BLOCK))
