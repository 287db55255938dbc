"""Blocks that other packs run in other ways: in a wrapper, without options, or not at all."""

import copy
import functools
import pickle
import types

import pytest
import torch
from conftest import (
    BLOCKS,
    EVERYTHING,
    SLOT,
    difference,
    load,
    pack_module,
    patch,
    sample,
    with_override,
    with_wrapper,
)
from step_caches.forwards import wan_forward

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


@pytest.fixture
def own_wan(wan_weights):
    """A separate model: a removed object patch leaves a method on the block."""
    return load(*wan_weights)


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


def with_an_older_forward(model, is_for=lambda step: True):
    """A model with another pack's forward in some steps, as step caches and NAG install one."""
    model, step = model.clone(), [0]
    net = model.get_model_object("diffusion_model")

    def wrapper(apply_model, given):
        step[0] += 1
        if is_for(step[0] - 1):
            net.forward_orig = wan_forward(net, lambda x, _e, blocks, _options: blocks(x))
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
    expected, summary = summaries
    assert summary == expected
    assert summary["radial_calls"] == (STEPS - 1) * (BLOCKS - 1)


def test_blocks_get_nothing_but_our_hook(wan):
    """That forward never called the attention that another node chose, and still does not."""
    calls = []

    def chosen(func, *args, **kwargs):
        calls.append(1)
        return func(*args, **kwargs)

    model = with_an_older_forward(with_override(wan, chosen))
    plain = sample(model, steps=1, cfg=1.0)
    assert not calls
    dense = sample(patch(model, dense_steps=9, dense_attention="comfyui"), steps=1, cfg=1.0)
    assert not calls and torch.equal(dense, plain)


def test_a_replaced_attention_is_counted(own_wan, summaries):
    """It runs unchanged, and the status says what is dense and why."""
    from comfy.ldm.modules.attention import optimized_attention

    model = own_wan.clone()
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


def test_blocks_that_take_no_options_are_counted(own_wan, summaries):
    """In the last two steps of four, another pack's blocks are called without options."""
    from comfy.ldm.modules.attention import optimized_attention

    model = with_an_older_forward(own_wan, lambda step: step > 1)
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
    assert summary["dense_calls"]["the blocks are called without transformer_options"] == 2 * BLOCKS
    assert summary["status"].startswith("radial 50 %: 2 of 4 steps")
    assert "the blocks are called without transformer_options (last 2 steps)" in summary["status"]
    assert "skipped" not in summary["status"]


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


def keyword_only(block):
    return lambda *args, transformer_options=None, **named: type(block).forward(
        block, *args, **named, transformer_options=transformer_options or {}
    )


def after_the_first(block):
    return lambda x, *args, transformer_options=None: type(block).forward(
        block, x, *args, transformer_options=transformer_options or {}
    )


def wrapping_ours(block):
    @functools.wraps(type(block).forward)
    def forward(*args, **named):
        return type(block).forward(block, *args, **named)

    return forward


def wrapping_one_without(block):
    @functools.wraps(type(block).forward)
    def forward(x, e, freqs, context, context_img_len=None):
        return type(block).forward(block, x, e, freqs, context, context_img_len)

    return forward


@pytest.mark.parametrize("given", [True, False], ids=["with options", "without"])
@pytest.mark.parametrize(
    "kind", [keyword_only, after_the_first, wrapping_ours, wrapping_one_without]
)
def test_no_signature_of_a_block_fails(wan_weights, summaries, kind, given):
    """Called with positional arguments as in an older forward, with its own options or none."""
    wan = load(*wan_weights)
    net = wan.get_model_object("diffusion_model")
    for block in net.blocks:
        block.forward = kind(block)
    if given and kind is wrapping_one_without:
        return  # it takes no options

    class Positional(torch.nn.Module):
        def __init__(self, block):
            super().__init__()
            self.block = block

        def forward(self, x, e, freqs, context, **named):
            options = ({},) if given and kind is wrapping_ours else ()
            named = {"transformer_options": {}} if given and not options else {}
            return self.block(x, e, freqs, context, None, *options, **named)

    net.blocks = torch.nn.ModuleList(map(Positional, net.blocks))
    plain = sample(wan, steps=1, cfg=1.0)
    assert difference(sample(patch(wan, **EVERYTHING), steps=1, cfg=1.0), plain) < 1e-4
    (summary,) = summaries
    calls = summary["dense_calls"] | {"radial": summary["radial_calls"]}
    calls.pop("cross-attention", 0)
    assert sum(calls.values()) == BLOCKS


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


def test_another_override_in_our_place_is_named(wan, summaries):
    def take_over(executor, *args, **kwargs):
        options = next(value for value in args if isinstance(value, dict))
        options["optimized_attention_override"] = lambda func, *a, **k: func(*a, **k)
        return executor(*args, **kwargs)

    model = patch(wan)
    model.add_wrapper_with_key("diffusion_model", "test", take_over)
    sample(model, steps=1, cfg=1.0)
    assert "another node's attention is on the hook" in summaries[0]["status"]


def test_a_block_that_compiles_itself_is_counted_without_options(wan_weights, summaries):
    wan = load(*wan_weights)
    wan.get_model_object("diffusion_model").blocks[1].compile(backend="eager")
    sample(patch(with_an_older_forward(wan)), steps=1, cfg=1.0)
    (summary,) = summaries
    assert summary["radial_calls"] == BLOCKS - 1
    assert summary["dense_calls"]["the blocks are called without transformer_options"] == 1


def test_our_own_fused_forward_is_no_other_packs(wan_weights):
    hooks, fused = pack_module("nodes.hook.block_hooks"), pack_module("nodes.fused_blocks")
    wan = load(*wan_weights)
    block = wan.get_model_object("diffusion_model").blocks[0]
    block.forward = functools.partial(fused._run, None, None, None, block)
    assert hooks.options_parameter(block)[0].name == "transformer_options"
    override = object()
    forward = types.SimpleNamespace(override=override)
    reason = hooks.why_not_reached(forward, block, {SLOT: override}).reason
    assert reason is pack_module("nodes.run.reasons").Reason.NO_HOOK
