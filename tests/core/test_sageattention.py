"""Dense attention of SageAttention 2, with the library in plain torch (fake_sageattention.py)."""

import sys

import pytest
import torch
from fake_sageattention import SageAttention
from fake_spargeattn import GPUS
from hard_inputs import HARD, draw, error_of
from registering import forget, register

from radial_core import RadialPattern, VideoLayout, make_plan
from radial_core.backends import sageattention
from radial_core.dense import dense_attention
from radial_core.reference import reference_attention

TOLERANCE = sageattention.ACCURACY.tolerance[torch.bfloat16]
LAYOUT = VideoLayout(1, 19, 17, suffix=6)
EVERYTHING = make_plan(RadialPattern(), LAYOUT)


@pytest.fixture(params=["RTX 30", "RTX 40", "RTX 50"])
def library(request, monkeypatch):
    return install(monkeypatch, GPUS[request.param])


def install(monkeypatch, gpu) -> SageAttention:
    found = SageAttention(gpu)
    monkeypatch.setitem(sys.modules, "sageattention", found)
    monkeypatch.setattr(sageattention, "capability", lambda device: gpu.capability)
    return found


def inputs(name="normal", batch=2, head_dim=64, dtype=torch.bfloat16):
    return draw(name, LAYOUT, (batch, 2, head_dim), dtype)


def error(q, k, v, name="normal"):
    before = [x.clone() for x in (q, k, v)]
    out = sageattention.dense(q, k, v, 0.1)
    assert out.shape == q.shape and out.dtype == q.dtype and out.is_contiguous()
    assert all(map(torch.equal, before, (q, k, v)))
    assert out.isfinite().all()
    return error_of(name, out, reference_attention(q, k, v, EVERYTHING, 0.1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("head_dim", [64, 72, 128])
def test_it_is_near_the_oracle(library, dtype, head_dim):
    assert error(*inputs(head_dim=head_dim, dtype=dtype)) <= TOLERANCE


def test_strides(library):
    heads_first = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in inputs())
    assert error(*heads_first) <= TOLERANCE
    apart = (torch.stack([x, x], dim=-1)[..., 0] for x in inputs())
    assert error(*apart) <= TOLERANCE


@pytest.mark.parametrize("name", HARD)
def test_hard_inputs(library, name):
    found = error(*inputs(name, 1, 128), name)
    if HARD[name].bound is not None and "4 channels" not in name:
        assert found <= TOLERANCE


def test_a_channel_of_zeros_stays_one(library):
    q, k, v = inputs()
    v[:, :, 1, 5] = 0
    assert error(q, k, v) <= TOLERANCE
    assert (sageattention.dense(q, k, v, 0.1)[:, :, 1, 5] == 0).all()


def test_values_stay_float16_where_fp8_is_known_to_fail(library):
    error(*inputs())
    (name, _), *_ = library.calls
    assert name == ("fp16" if library.gpu.capability[0] == 12 else "sageattn")


def test_some_heads_at_a_time_are_the_same(library, monkeypatch):
    qkv = inputs()
    together = sageattention.dense(*qkv, 0.1)
    monkeypatch.setattr(sageattention, "SCRATCH_BYTES", 1)
    assert torch.equal(sageattention.dense(*qkv, 0.1), together)
    assert [shape[2] for _, shape in library.calls] == [2, 1, 1]


@pytest.mark.parametrize("far_apart", [False, True])
def test_what_lies_too_far_apart_is_copied(library, monkeypatch, far_apart):
    """As parts of one tensor of q, k and v do in a long video."""
    q, k, v = torch.stack(inputs(batch=1), dim=2).unbind(2)
    span = (LAYOUT.tokens - 1) * q.stride(1) + q.shape[2] * q.shape[3] - 1
    monkeypatch.setattr(sageattention, "MOST_ELEMENTS", span if far_apart else span + 1)
    assert error(q, k, v) <= TOLERANCE
    assert all((step == q.stride(1)) != far_apart for step in library.steps[:2])
    assert library.steps[2] == q.shape[3]  # the values are always packed


def test_a_side_stream_is_refused_before_the_library_runs(library, monkeypatch):
    def refuse(device):
        raise RuntimeError("a side stream")

    monkeypatch.setattr(sageattention, "refuse_side_streams", refuse)
    with pytest.raises(RuntimeError, match="a side stream"):
        sageattention.dense(*inputs(), 0.1)
    assert not library.calls


def test_it_proves_itself_and_runs_only_in_8_bits(monkeypatch):
    forget()
    install(monkeypatch, GPUS["RTX 40"])
    monkeypatch.setattr(sageattention, "_installed", lambda: True)
    register(monkeypatch, sageattention=sageattention)
    assert dense_attention(*inputs(), approximate=True)[1] == "sageattention"
    assert dense_attention(*inputs())[1] == "sdpa"
    forget()
