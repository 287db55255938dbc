"""Blocks that other packs run in their own way: from a wrapper, without options, or not at all."""

import pytest
import torch
from conftest import (
    BLOCKS,
    difference,
    load,
    pack_module,
    patch,
    sample,
    with_override,
    with_wrapper,
)

pytestmark = pytest.mark.oldest

STEPS = 4
SETTINGS = {"dense_steps": 1, "dense_blocks": 1}


class Runs(torch.nn.Module):
    """Runs blocks as one, as First Block Cache does."""

    def __init__(self, blocks):
        super().__init__()
        self.all = blocks

    def forward(self, x, **named):
        for block in self.all:
            x = block(x, **named)
        return x


class RunsUnseen(Runs):
    """The same; but no module of torch's knows that the blocks are its own."""

    def __init__(self, blocks):
        torch.nn.Module.__init__(self)
        self.all = tuple(blocks)


def in_one(model, kind):
    """A node that puts one module in the place of the blocks, for the time of a pass."""
    model = model.clone()

    def wrapper(apply_model, given):
        net = model.get_model_object("diffusion_model")
        blocks, net.blocks = net.blocks, torch.nn.ModuleList([kind(net.blocks)])
        try:
            return apply_model(given["input"], given["timestep"], **given["c"])
        finally:
            net.blocks = blocks

    model.set_model_unet_function_wrapper(wrapper)
    return model


@pytest.mark.parametrize("kind", [Runs, RunsUnseen])
@pytest.mark.parametrize("dense_blocks", [0, 1, 2])
def test_blocks_that_all_say_they_are_the_first(wan, summaries, kind, dense_blocks):
    settings = SETTINGS | {"dense_blocks": dense_blocks}
    plain = sample(patch(wan, **settings), steps=STEPS)
    assert torch.equal(sample(patch(in_one(wan, kind), **settings), steps=STEPS), plain)
    expected, found = summaries
    assert (
        found["radial_calls"] == expected["radial_calls"] == (STEPS - 1) * (BLOCKS - dense_blocks)
    )
    assert found["dense_calls"] == expected["dense_calls"]


def test_a_block_that_attends_twice_is_one(wan, summaries):
    """As in NAG where text is in the same sequence: the second call is of the same block."""
    model = wan.clone()
    attention = model.get_model_object("diffusion_model").blocks[0].self_attn

    def twice(x, freqs, transformer_options):
        type(attention).forward(attention, x, freqs, transformer_options=transformer_options)
        return type(attention).forward(attention, x, freqs, transformer_options=transformer_options)

    model.add_object_patch("diffusion_model.blocks.0.self_attn.forward", twice)
    sample(patch(model, dense_blocks=1), steps=1, cfg=1.0)
    (summary,) = summaries
    assert summary["dense_calls"]["dense block"] == 2
    assert summary["radial_calls"] == BLOCKS - 1


def forward_without_options(net, steps=None):
    """WanModel.forward_orig as it was before it handed transformer_options to its blocks."""
    from comfy.ldm.wan.model import sinusoidal_embedding_1d

    def forward_orig(x, t, context, clip_fea=None, freqs=None, transformer_options=None, **kwargs):
        x = net.patch_embedding(x.float()).to(x.dtype)
        grid = x.shape[2:]
        x = x.flatten(2).transpose(1, 2)
        e = net.time_embedding(sinusoidal_embedding_1d(net.freq_dim, t).to(x.dtype))
        e0 = net.time_projection(e).unflatten(1, (6, net.dim))
        context = net.text_embedding(context)
        for block in net.blocks:
            x = block(x, e=e0, freqs=freqs, context=context, context_img_len=None)
        return net.unpatchify(net.head(x, e), grid)

    return forward_orig


def with_an_older_forward(model, is_for=lambda step: True):
    """Another pack's forward, in the steps that it is for, as a step cache or NAG put one."""
    model, step = model.clone(), [0]
    net = model.get_model_object("diffusion_model")

    def wrapper(apply_model, given):
        step[0] += 1
        if is_for(step[0] - 1):
            net.forward_orig = forward_without_options(net)
        try:
            return apply_model(given["input"], given["timestep"], **given["c"])
        finally:
            vars(net).pop("forward_orig", None)

    model.set_model_unet_function_wrapper(wrapper)
    return model


@pytest.mark.parametrize("is_for", [lambda step: True, lambda step: step > 1], ids=["all", "some"])
@pytest.mark.parametrize("ours_first", [False, True])
def test_blocks_without_options_are_radial(wan, summaries, is_for, ours_first):
    plain = sample(patch(wan, **SETTINGS), steps=STEPS, cfg=1.0)
    if ours_first:
        both = with_an_older_forward(patch(wan, **SETTINGS), is_for)
    else:
        both = patch(with_an_older_forward(wan, is_for), **SETTINGS)
    assert torch.equal(sample(both, steps=STEPS, cfg=1.0), plain)
    expected, found = summaries
    assert found == expected
    assert found["radial_calls"] == (STEPS - 1) * (BLOCKS - 1)


def test_blocks_get_nothing_but_our_hook(wan):
    """An attention that another node chose was not asked by that forward, and is not now."""
    calls = []

    def chosen(func, *args, **kwargs):
        calls.append(1)
        return func(*args, **kwargs)

    model = with_an_older_forward(with_override(wan, chosen))
    plain = sample(model, steps=1, cfg=1.0)
    assert not calls
    dense = sample(patch(model, dense_steps=9, dense_attention="comfyui"), steps=1, cfg=1.0)
    assert not calls and torch.equal(dense, plain)


def test_an_attention_that_is_replaced_is_counted(wan, summaries):
    """Its pixels are those of ComfyUI, and the status says what is dense and why."""
    from comfy.ldm.modules.attention import optimized_attention

    model = wan.clone()
    attention = model.get_model_object("diffusion_model").blocks[1].self_attn

    def theirs(x, freqs, transformer_options=None):
        q, k, v = (getattr(attention, name)(x) for name in "qkv")
        return attention.o(optimized_attention(q, k, v, heads=attention.num_heads))

    theirs.__module__ = "/somewhere/custom_nodes/ComfyUI-Other"
    model.add_object_patch("diffusion_model.blocks.1.self_attn.forward", theirs)
    sample(patch(model), steps=2, cfg=1.0)
    (summary,) = summaries
    assert summary["radial_calls"] == 2 * (BLOCKS - 1)
    why = "self_attn is replaced by ComfyUI-Other, and asks no attention hook"
    assert summary["dense_calls"][why] == 2
    assert summary["status"].startswith("radial 67 %: all 2 steps") and why in summary["status"]


def test_blocks_that_take_no_options_are_counted(wan, summaries):
    """In the last two steps of four, another pack's blocks are called without options."""
    from comfy.ldm.modules.attention import optimized_attention

    model = with_an_older_forward(wan, lambda step: step > 1)
    for i, block in enumerate(model.get_model_object("diffusion_model").blocks):

        def theirs(x, e, freqs, context, context_img_len=257, *, _block=block, **named):
            if named:
                return type(_block).forward(_block, x, e, freqs, context, context_img_len, **named)
            q, k, v = (getattr(_block.self_attn, name)(x) for name in "qkv")
            return x + optimized_attention(q, k, v, heads=2)

        model.add_object_patch(f"diffusion_model.blocks.{i}.forward", theirs)
    sample(patch(model), steps=4, cfg=1.0)
    (summary,) = summaries
    assert summary["radial_calls"] == 2 * BLOCKS
    assert summary["dense_calls"]["the blocks take no transformer_options"] == 2 * BLOCKS
    assert summary["status"].startswith("radial 50 %: 2 of 4 steps")
    assert "the blocks take no transformer_options (last 2 steps)" in summary["status"]


def test_steps_without_blocks_are_counted(wan, summaries):
    """As a step cache has it that gives back what the model said before."""
    model, step, kept = wan.clone(), [0], []

    def cache(executor, *args, **kwargs):
        step[0] += 1
        if step[0] > 2:
            return kept[-1]
        kept.append(executor(*args, **kwargs))
        return kept[-1]

    sample(with_wrapper(patch(model), cache), steps=5, cfg=1.0)
    (summary,) = summaries
    assert summary["radial_calls"] == 2 * BLOCKS
    assert summary["status"].startswith("radial 100 %: 2 of 5 steps")
    assert "no self-attention ran: last 3 steps" in summary["status"]


def test_nothing_is_blamed_on_torch_compile(wan, summaries):
    model = with_wrapper(patch(wan), lambda executor, x, *args, **kwargs: 0 * x)
    sample(model, steps=1, cfg=1.0)
    assert "compile" not in summaries[0]["status"]
    assert "no call reached this node" in summaries[0]["status"]


def test_no_hook_stays(wan_weights):
    wan = load(*wan_weights)
    blocks = wan.get_model_object("diffusion_model").blocks

    def broken(executor, *args, **kwargs):
        executor(*args, **kwargs)
        assert any(block._forward_pre_hooks for block in blocks)
        raise RuntimeError("out of memory")

    for model in (patch(wan), with_wrapper(patch(wan), broken)):
        try:
            sample(model, steps=1)
        except RuntimeError:
            pass
        assert not any(block._forward_pre_hooks or block._forward_hooks for block in blocks)


def test_a_pass_within_a_pass_counts_for_itself(wan, summaries):
    def again(executor, x, t, *args, **kwargs):
        if not inside:
            inside.append(1)
            executor.class_obj.apply_model(x, t, *args, **kwargs)
        return executor(x, t, *args, **kwargs)

    inside = []
    sample(patch(with_wrapper(wan, again), **SETTINGS), steps=2, cfg=1.0)
    (summary,) = summaries
    assert summary["radial_calls"] == BLOCKS - 1
    assert summary["dense_calls"]["dense step"] in (BLOCKS, 2 * BLOCKS)


def test_a_hook_that_fails_does_not_spoil_the_render(wan, summaries, monkeypatch, caplog):
    def broken(*args):
        raise AttributeError("moved")

    plain = sample(patch(wan), steps=2, cfg=1.0)
    monkeypatch.setattr(pack_module("nodes.block_hooks"), "_begin", broken)
    assert difference(sample(patch(wan), steps=2, cfg=1.0), plain) < 1e-6
    assert sum("hook on a transformer block failed" in r.getMessage() for r in caplog.records) == 1
