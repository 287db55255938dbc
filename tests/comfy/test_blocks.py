"""Fused blocks in every model of the zoo, with the torch versions of their operations.

tests/core/test_fused.py compares the kernels themselves with torch, as each GPU does before their
first use.
"""

import functools
import gc
from collections import Counter

import comfy.model_management
import pytest
import torch
import zoo
from conftest import difference, pack_module, patch
from zoo import sample

pytestmark = pytest.mark.oldest


def fused_forms(family) -> dict:
    """Class of a block or a part of one -> its fused form."""
    forms = pack_module("nodes.fused_blocks")._forms_of(family)
    return {cls: form for (_, cls), form in forms.items()}


def fuse_on_cpu(monkeypatch):
    """Fused blocks on the CPU, where their operations run in torch. Returns nodes.fused_blocks."""
    fused, blocks = pack_module("radial_core.fused"), pack_module("nodes.fused_blocks")
    monkeypatch.setattr(fused, "why_not", lambda *tensors, **operations: None)
    monkeypatch.setattr(fused, "launched", lambda *arguments, **options: False)
    monkeypatch.setattr(
        pack_module("nodes.hook.forward_wrapper"),
        "fused",
        lambda diffusion_model, device: blocks.fused_blocks(diffusion_model),
    )
    return blocks


@pytest.fixture
def ran(monkeypatch):
    """Counts the calls of each fused form, and whether it took them: (name, took) -> calls."""
    blocks = fuse_on_cpu(monkeypatch)
    count, plan = Counter(), blocks._plan
    families = pack_module("nodes.families.registry").FAMILIES
    names = {form: cls for each in families for cls, form in fused_forms(each).items()}

    def counted(this_pass, form, module, arguments, named):
        took = False
        try:
            compute = plan(this_pass, form, module, arguments, named)
            took = True
            return compute
        finally:
            count[names[form], took] += 1

    monkeypatch.setattr(blocks, "_plan", counted)
    return count


LARGE = "wan animate"  # with the same blocks as the others
CASES = [pytest.param(c, marks=[pytest.mark.slow] * (c.name == LARGE)) for c in zoo.CASES]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in zoo.CASES])
def test_fused_blocks_compute_the_same_as_comfyuis(case, ran):
    if not case.is_there:
        pytest.skip(f"not in this ComfyUI: {case.name}")
    model, inputs = case.model(), case.inputs()
    net = model.model.diffusion_model
    out = sample(patch(model, dense_steps=100, dense_attention="comfyui"), inputs)
    assert difference(out, sample(model, inputs)) < 1e-4
    kinds = {type(module).__name__ for module in net.modules()}
    family = pack_module("nodes.families.registry").family_of(net)
    assert {name for name, _ in ran} == kinds & set(fused_forms(family))
    assert not any("forward" in vars(module) for module in net.modules())


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="runs the kernels in Triton's interpreter")
@pytest.mark.parametrize(
    "name",
    ["wan i2v", "hunyuan padded prompt", "hunyuan 1.5 i2v", "minimax h3 first and last frame"],
)
def test_the_kernels_in_the_blocks(name, ran, monkeypatch):
    fused, launched = pack_module("radial_core.fused"), set()

    def launch(kernel, grid, arguments, out, kernels="norms", **options):
        file = pack_module(f"radial_core.kernels.{kernels}")
        getattr(file, kernel)[grid](*arguments, **options)
        launched.add((kernels, kernel))
        return True

    monkeypatch.setattr(fused, "launched", launch)
    case = next(case for case in zoo.CASES if case.name == name)
    if not case.is_there:
        pytest.skip(f"not in this ComfyUI: {case.name}")
    model, inputs = case.model(), case.inputs()
    out = sample(patch(model, dense_steps=100, dense_attention="comfyui"), inputs, steps=1)
    assert difference(out, sample(model, inputs, steps=1)) < 1e-4
    if name.startswith("minimax"):
        kernels = "rms_norm_modulate", "rms_norm_rope_halves", "add_gated_rows", "swiglu"
        assert launched == {("packed_norms", kernel) for kernel in kernels}
    else:
        kernels = "rms_norm_rope", "layer_norm_modulate", "add_gated"
        assert {("norms", kernel) for kernel in kernels} <= launched


def test_which_blocks_are_fused(ran):
    """All blocks of these classes, unless tokens have their own timesteps."""
    for case in zoo.CASES:
        if case.name in ("wan i2v", "hunyuan t2v"):
            sample(patch(case.model(), dense_steps=100), case.inputs())
    assert ran and all(took for _, took in ran)


def test_a_patch_inside_the_attention_is_called(ran):
    case = next(case for case in zoo.CASES if case.name == "hunyuan t2v")
    model, inputs, seen = case.model(), case.inputs(), []

    def look(q, k, v, pe, attn_mask, extra_options):
        seen.append(q)
        return {}

    model.set_model_attn1_patch(look)
    sample(patch(model, dense_steps=100), inputs)
    assert {took for _, took in ran} == {not seen}  # ComfyUI 0.16.3 does not call that patch


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
    assert ran["WanAttentionBlock", True] == 2 * 2 and ran["WanSelfAttention", True] == 2 * 3


def test_a_removed_object_patch_leaves_the_block_as_it_was(wan, ran):
    from conftest import sample

    model = wan.clone()
    block = model.get_model_object("diffusion_model").blocks[0]
    model.add_object_patch(
        "diffusion_model.blocks.0.forward", lambda *a, **k: type(block).forward(block, *a, **k)
    )
    sample(model, steps=1, cfg=1.0)
    sample(patch(wan), steps=1, cfg=1.0)
    assert ran["WanAttentionBlock", True] == 3
    assert getattr(vars(block).get("forward"), "__func__", None) in (None, type(block).forward)


def test_a_forward_that_is_set_during_the_pass_stays(wan, ran):
    from conftest import sample

    block = wan.get_model_object("diffusion_model").blocks[0]
    blocks = pack_module("nodes.fused_blocks")
    with blocks.fused_blocks(wan.get_model_object("diffusion_model")):
        theirs = block.forward = lambda *a, **k: type(block).forward(block, *a, **k)
    assert vars(block)["forward"] is theirs
    del block.forward
    sample(patch(wan), steps=1, cfg=1.0)
    assert ran["WanAttentionBlock", True] == 3


def test_a_class_that_another_pack_changed_is_left_alone(wan, ran, monkeypatch):
    from comfy.ldm.wan.model import WanAttentionBlock
    from conftest import sample

    sample(patch(wan), steps=1, cfg=1.0)
    assert ran["WanAttentionBlock", True] == 3
    calls, plain = [], WanAttentionBlock.forward

    @functools.wraps(plain)
    def theirs(self, *arguments, **named):
        calls.append(1)
        return plain(self, *arguments, **named)

    for forward in (theirs, functools.partialmethod(theirs)):
        monkeypatch.setattr(WanAttentionBlock, "forward", forward)
        sample(patch(wan), steps=1, cfg=1.0)
    assert len(calls) == 6 and ran["WanAttentionBlock", True] == 3


def test_a_hooked_or_replaced_norm_is_left_alone(wan, ran):
    from conftest import sample

    seen, net = [], wan.get_model_object("diffusion_model")
    handle = net.blocks[0].self_attn.norm_q.register_forward_hook(lambda *a: seen.append(1))
    norm = net.blocks[1].self_attn.norm_q
    net.blocks[1].self_attn.norm_q = WrappedNorm(norm)
    try:
        sample(patch(wan), steps=1, cfg=1.0)
    finally:
        handle.remove()
        net.blocks[1].self_attn.norm_q = norm
    assert len(seen) == 1
    assert ran["WanSelfAttention", True] == 1 and ran["WanSelfAttention", False] == 2


class WrappedNorm(torch.nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.inner = norm

    def forward(self, x):
        return self.inner(x)


def as_a_kernel(run, ran):
    """Like a kernel, whose output autograd does not track."""

    @torch.no_grad()
    def operation(*arguments, **named):
        ran.append(run)
        return run(*arguments, **named)

    return operation


OPERATIONS = ("rms_norm_rope", "layer_norm_modulate", "add_gated", "beside_gelu")


def test_gradients_are_not_cut(wan, monkeypatch):
    """The fused operations have no backward, so with gradients ComfyUI's own blocks run."""
    fused, blocks = pack_module("radial_core.fused"), pack_module("nodes.fused_blocks")
    monkeypatch.setattr(comfy.model_management, "in_training", True)
    monkeypatch.setattr(fused, "capability", lambda device: (9, 0))
    monkeypatch.setattr(fused, "DTYPES", (torch.float32,))
    monkeypatch.setattr(fused, "_first_wrong", lambda *kind: None)
    monkeypatch.setattr(fused, "launched", lambda *arguments, **options: False)
    ran = []
    for name in OPERATIONS:
        monkeypatch.setattr(fused, name, as_a_kernel(getattr(fused, name), ran))
    net = wan.clone().model.diffusion_model
    x, time, text = torch.randn(1, 16, 3, 8, 8), torch.tensor([500.0]), torch.randn(1, 20, 16)

    def gradient():
        x.grad = None
        net(x.requires_grad_(), time, text).square().sum().backward()
        return x.grad

    with torch.enable_grad():
        plain = gradient()
        with blocks.fused_blocks(net):
            assert difference(gradient(), plain) < 1e-6 and not ran
    with torch.no_grad(), blocks.fused_blocks(net):
        net(x.detach(), time, text)
    assert ran


def test_the_first_block_holds_no_more_tensors_than_comfyuis(wan, monkeypatch):
    """Its tokens are transposed, so they are copied; the copy must be freed early."""
    from conftest import sample

    block = wan.get_model_object("diffusion_model").blocks[0]
    held = []

    def count(_ffn, arguments):
        gc.collect()
        shape = arguments[0].shape
        tensors = [x for x in gc.get_objects() if type(x) is torch.Tensor and x.shape == shape]
        held.append(len({x.untyped_storage().data_ptr() for x in tensors}))

    hook = block.ffn.register_forward_pre_hook(count)
    try:
        sample(patch(wan, dense_steps=9), steps=1, cfg=1.0)
        fuse_on_cpu(monkeypatch)
        sample(patch(wan, dense_steps=9), steps=1, cfg=1.0)
    finally:
        hook.remove()
    plain, ours = held
    assert ours <= plain
