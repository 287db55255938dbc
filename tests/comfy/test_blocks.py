"""Fused blocks, in every model of the zoo: its kernels replaced by what they compute, in torch.

The kernels themselves are held against torch in tests/core/test_fused.py and, on each GPU that they
run on, before their first use.
"""

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
import zoo
from conftest import difference, pack_module, patch
from zoo import sample

FUSED = {  # models with blocks of these classes -> what is fused in them
    "WanSelfAttention": "self_attention",
    "WanAttentionBlock": "block",
    "DoubleStreamBlock": "double_block",
    "SingleStreamBlock": "single_block",
}


def rms_norm_rope(x, weight, freqs, eps, out=None):
    rows = x if weight.numel() == x.shape[-1] else x.flatten(2)
    normed = F.rms_norm(rows, weight.shape, weight, eps).view(x.shape).unflatten(-1, (-1, 2))
    freqs = freqs.expand(x.shape[0], *freqs.shape[1:])
    turned = torch.einsum("bspij,bshpj->bshpi", freqs, normed).flatten(-2)
    return turned if out is None else out.copy_(turned)


def layer_norm_modulate(x, scale, shift, eps):
    assert x.is_contiguous()
    return F.layer_norm(x, x.shape[-1:], eps=eps) * (1 + scale) + shift


def add_gated(x, y, gate, out=None):
    assert x.is_contiguous()
    return x + y * gate if out is None else out.copy_(x + y * gate)


def beside_gelu(x, y):
    y[..., : x.shape[2]] = x
    y[..., x.shape[2] :] = F.gelu(y[..., x.shape[2] :], approximate="tanh")
    return y


@pytest.fixture
def ran(monkeypatch):
    """Fused blocks on the CPU; counts the passes of each kind."""
    fused, blocks = pack_module("radial_core.fused"), pack_module("nodes.blocks")
    monkeypatch.setattr(fused, "why_not", lambda *tensors: None)
    for operation in (rms_norm_rope, layer_norm_modulate, add_gated, beside_gelu):
        monkeypatch.setattr(fused, operation.__name__, operation)
    monkeypatch.setattr(
        pack_module("nodes.override").RadialOverride,
        "_fused",
        lambda self, forward, base, x, conditions: blocks.fused_blocks(base.diffusion_model),
    )
    count, run = Counter(), blocks._run

    def counted(forward, module, *arguments, **named):
        out = forward(module, *arguments, **named)
        count[forward.__name__, out is not None] += 1
        return run(lambda *a, **k: out, module, *arguments, **named)

    monkeypatch.setattr(blocks, "_run", counted)
    return count


@pytest.mark.parametrize("case", zoo.CASES, ids=lambda case: case.name)
def test_fused_blocks_compute_what_comfyuis_do(case, ran):
    if not case.is_there:
        pytest.skip(f"not in this ComfyUI: {case.name}")
    model, inputs = case.model(), case.inputs()
    net = model.model.diffusion_model
    out = sample(patch(model, dense_steps=100, dense_attention="comfyui"), inputs)
    assert difference(out, sample(model, inputs)) < 1e-4
    kinds = {type(module).__name__ for module in net.modules()}
    assert {name for name, _ in ran} == {FUSED[kind] for kind in kinds & set(FUSED)}
    assert not any("forward" in vars(module) for module in net.modules())


def test_which_blocks_are_fused(ran):
    """All of those classes, but where tokens have times of their own."""
    for case in zoo.CASES:
        if case.name in ("wan i2v", "hunyuan t2v"):
            sample(patch(case.model(), dense_steps=100), case.inputs())
    assert ran and all(took for _, took in ran)


def test_a_patch_inside_the_attention_sees_what_it_expects(ran):
    case = next(case for case in zoo.CASES if case.name == "hunyuan t2v")
    model, inputs, seen = case.model(), case.inputs(), []

    def look(q, k, v, pe, attn_mask, extra_options):
        seen.append(q)
        return {}

    model.set_model_attn1_patch(look)
    sample(patch(model, dense_steps=100), inputs)
    assert not any(took for _, took in ran)


def test_a_block_that_another_pack_changed_is_left_alone(wan, ran):
    from conftest import sample

    model, calls = wan.clone(), []
    block = model.get_model_object("diffusion_model").blocks[0]

    def theirs(*arguments, **named):
        calls.append(1)
        return type(block).forward(block, *arguments, **named)

    model.add_object_patch("diffusion_model.blocks.0.forward", theirs)
    sample(patch(model), steps=2, cfg=1.0)
    assert len(calls) == 2
    assert ran["block", True] == 2 * 2 and ran["self_attention", True] == 2 * 3


def test_code_that_is_not_known_is_left_alone(monkeypatch):
    blocks = pack_module("nodes.blocks")
    from comfy.ldm.wan.model import WanAttentionBlock

    assert blocks.forward_for(WanAttentionBlock) is blocks.wan.block
    assert blocks.forward_for.__wrapped__(torch.nn.Linear) is None
    monkeypatch.setattr(WanAttentionBlock, "forward", torch.nn.Linear.forward)
    assert blocks.forward_for.__wrapped__(WanAttentionBlock) is None


def test_a_kernel_that_fails_gives_the_block_back(wan, ran, monkeypatch, caplog):
    from conftest import sample

    fused = pack_module("radial_core.fused")

    def failing(*arguments, **named):
        raise fused.Failed("add_gated failed: no compiler")

    monkeypatch.undo()
    plain = sample(wan, steps=1, cfg=1.0)
    blocks = pack_module("nodes.blocks")
    monkeypatch.setattr(fused, "why_not", lambda *tensors: None)
    monkeypatch.setattr(fused, "layer_norm_modulate", failing)
    monkeypatch.setattr(fused, "rms_norm_rope", failing)
    with blocks.fused_blocks(wan.get_model_object("diffusion_model")):
        out = sample(wan, steps=1, cfg=1.0)
    assert torch.equal(out, plain)
    assert "no compiler" in caplog.text
