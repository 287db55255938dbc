"""Blocks that other packs run in other ways: in a wrapper, without options, or not at all."""

import copy
import pickle

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


class RunsAsOne(torch.nn.Module):
    """RunsAsOne several blocks as one, as First Block Cache does."""

    def __init__(self, blocks):
        super().__init__()
        self.all = blocks

    def forward(self, x, **named):
        for block in self.all:
            x = block(x, **named)
        return x


class RunsHidden(RunsAsOne):
    """The same, but torch does not know the blocks as its submodules."""

    def __init__(self, blocks):
        torch.nn.Module.__init__(self)
        self.all = tuple(blocks)


def with_blocks(model, change):
    """A model whose blocks are replaced by other modules during each pass."""
    model = model.clone()

    def wrapper(apply_model, given):
        net = model.get_model_object("diffusion_model")
        blocks, net.blocks = net.blocks, torch.nn.ModuleList(change(net.blocks))
        try:
            return apply_model(given["input"], given["timestep"], **given["c"])
        finally:
            net.blocks = blocks

    model.set_model_unet_function_wrapper(wrapper)
    return model


def in_one(model, kind):
    return with_blocks(model, lambda blocks: [kind(blocks)])


@pytest.mark.parametrize("kind", [RunsAsOne, RunsHidden])
@pytest.mark.parametrize("dense_blocks", [0, 1, 2])
def test_blocks_that_all_have_the_index_of_the_first(wan, summaries, kind, dense_blocks):
    settings = SETTINGS | {"dense_blocks": dense_blocks}
    plain = sample(patch(wan, **settings), steps=STEPS)
    assert torch.equal(sample(patch(in_one(wan, kind), **settings), steps=STEPS), plain)
    expected, summary = summaries
    radial_calls = (STEPS - 1) * (BLOCKS - dense_blocks)
    assert summary["radial_calls"] == expected["radial_calls"] == radial_calls
    assert summary["dense_calls"] == expected["dense_calls"]


def test_a_block_that_attends_twice_counts_as_one(own_wan, summaries):
    """As in NAG with text in the same sequence, where a block calls attention twice."""
    model = own_wan.clone()
    attention = model.get_model_object("diffusion_model").blocks[0].self_attn

    def twice(x, freqs, transformer_options):
        type(attention).forward(attention, x, freqs, transformer_options=transformer_options)
        return type(attention).forward(attention, x, freqs, transformer_options=transformer_options)

    model.add_object_patch("diffusion_model.blocks.0.self_attn.forward", twice)
    sample(patch(model, dense_blocks=1), steps=1, cfg=1.0)
    (summary,) = summaries
    assert summary["dense_calls"]["dense block"] == 2
    assert summary["radial_calls"] == BLOCKS - 1


def test_a_run_without_calls_does_not_blame_torch_compile(wan, summaries):
    model = with_wrapper(patch(wan), lambda executor, x, *args, **kwargs: 0 * x)
    sample(model, steps=1, cfg=1.0)
    assert "compile" not in summaries[0]["status"]
    assert "no call reached this node" in summaries[0]["status"]


def test_all_hooks_are_removed(wan_weights):
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
    monkeypatch.setattr(pack_module("nodes.hook.block_hooks")._Watch, "_begin", broken)
    assert difference(sample(patch(wan), steps=2, cfg=1.0), plain) < 1e-6
    assert (
        sum("hooks on the transformer blocks failed" in r.getMessage() for r in caplog.records) == 1
    )


def hidden(model, *places):
    """A model in which some blocks are hidden inside other modules."""

    def change(blocks):
        return [RunsHidden([block]) if i in places else block for i, block in enumerate(blocks)]

    return with_blocks(model, change)


@pytest.mark.parametrize("places", [(0,), (1,), (1, 2)], ids=str)
def test_blocks_next_to_hidden_ones_keep_their_index(wan, summaries, places):
    plain = sample(patch(wan, dense_blocks=1), steps=1, cfg=1.0)
    assert torch.equal(sample(patch(hidden(wan, *places), dense_blocks=1), steps=1, cfg=1.0), plain)
    assert summaries[0] == summaries[1]


def test_options_of_an_earlier_run_and_an_attention_that_the_user_chose(wan, summaries):
    """A pack keeps the options of the first pass, and the model is patched again later."""
    asked, kept = [], []

    def chosen(func, *args, **kwargs):
        asked.append(1)
        return func(*args, **kwargs)

    def reuse(executor, *args, **kwargs):
        args = list(args)
        at = next(i for i, value in enumerate(args) if isinstance(value, dict))
        kept.append(args[at])
        args[at] = kept[0]
        return executor(*args, **kwargs)

    def run(model):
        model = model.clone()
        model.add_wrapper_with_key("diffusion_model", "test", reuse)
        asked.clear()
        out = sample(model, steps=2, cfg=1.0)
        return out, len(asked)

    plain, expected = run(with_override(wan, chosen))
    for settings in ({"dense_steps": 9}, {"dense_steps": 8}):
        out, number = run(patch(with_override(wan, chosen), **settings, dense_attention="comfyui"))
        assert torch.equal(out, plain) and number == expected


def test_a_model_can_be_copied_in_a_pass(wan, summaries):
    copies = []

    def copy_it(executor, *args, **kwargs):
        block = executor.class_obj.blocks[0]
        pickle.dumps(list(block._forward_pre_hooks.values()))
        copies.append(copy.deepcopy(block))
        return executor(*args, **kwargs)

    model = patch(wan)
    model.add_wrapper_with_key("diffusion_model", "test", copy_it)
    sample(model, steps=1, cfg=1.0)
    assert summaries[0]["radial_calls"] == BLOCKS
    hooks = [*copies[0]._forward_pre_hooks.values(), *copies[0]._forward_hooks.values()]
    assert all(hook() is None for hook in hooks)
