"""Blocks that other packs call without transformer_options, or that do not name them."""

import functools
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
)
from step_caches.forwards import with_an_older_forward

pytestmark = pytest.mark.oldest

STEPS = 4
SETTINGS = {"dense_steps": 1, "dense_blocks": 1}
options_parameter = pack_module("nodes.hook.block_options").options_parameter


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


def keeping_ours(block):
    kept = block.forward
    return lambda *args, **named: kept(*args, **named)


def rest_by_name(block):
    kept = block.forward
    return lambda x, e, freqs, context, _images, **named: kept(x, e, freqs, context, **named)


KINDS = {  # -> whether it takes options
    keyword_only: True,
    after_the_first: True,
    wrapping_ours: True,
    wrapping_one_without: False,
    keeping_ours: True,
    rest_by_name: True,
}


@pytest.mark.parametrize("given", [True, False], ids=["with options", "without"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_signature_of_a_block_fails(wan_weights, summaries, kind, given):
    """Called with positional arguments as in an older forward, with its own options or none."""
    wan = load(*wan_weights)
    net = wan.get_model_object("diffusion_model")
    for block in net.blocks:
        block.forward = kind(block)
    if given and not KINDS[kind]:
        return
    hidden = given and kind in (wrapping_ours, keeping_ours)

    class Positional(torch.nn.Module):
        def __init__(self, block):
            super().__init__()
            self.block = block

        def forward(self, x, e, freqs, context, **named):
            options = ({},) if hidden else ()
            named = {"transformer_options": {}} if given and not hidden else {}
            return self.block(x, e, freqs, context, None, *options, **named)

    net.blocks = torch.nn.ModuleList(map(Positional, net.blocks))
    plain = sample(wan, steps=1, cfg=1.0)
    assert difference(sample(patch(wan, **EVERYTHING), steps=1, cfg=1.0), plain) < 1e-4
    (summary,) = summaries
    calls = summary["dense_calls"] | {"radial": summary["radial_calls"]}
    calls.pop("cross-attention", 0)
    assert sum(calls.values()) == BLOCKS
    takes = KINDS[kind] and not hidden
    assert ("the blocks are called without transformer_options" in calls) != takes


def test_a_block_that_compiles_itself_is_counted_without_options(wan_weights, summaries):
    wan = load(*wan_weights)
    wan.get_model_object("diffusion_model").blocks[1].compile(backend="eager")
    sample(patch(with_an_older_forward(wan)), steps=1, cfg=1.0)
    (summary,) = summaries
    assert summary["radial_calls"] == BLOCKS - 1
    assert summary["dense_calls"]["the blocks are called without transformer_options"] == 1


class Base(torch.nn.Module):
    def forward(self, x, e, transformer_options=None):
        pass


class HandsOn(Base):
    def forward(self, c, x, **named):
        return super().forward(c, **named)


class HandsAllOn(Base):
    def forward(self, *arguments, **named):
        return super().forward(*arguments, **named)


class Refuses(Base):
    def forward(self, x, **named):
        assert set(named) <= {"e"}
        return Base.forward(self, x, named["e"])


class HandsOnToOneWithout(Refuses):
    def forward(self, x, **named):
        return super().forward(x, **named)


@pytest.mark.parametrize(
    "cls, positional, takes",
    [
        (HandsOn, 2, True),
        (HandsAllOn, 2, True),
        (HandsAllOn, 3, False),  # the third is the options
        (Refuses, 1, False),
        (HandsOnToOneWithout, 1, False),
        (torch.nn.Linear, 1, False),
        (torch.nn.ModuleList, 0, False),  # it has no forward of its own
    ],
)
def test_arguments_that_are_not_named(cls, positional, takes):
    block = cls(2, 2) if cls is torch.nn.Linear else cls()
    parameter, _ = options_parameter(block, positional)
    assert (parameter is not None) == takes


def test_our_own_fused_forward_is_no_other_packs(wan_weights):
    hooks, fused = pack_module("nodes.hook.block_hooks"), pack_module("nodes.fused_blocks")
    wan = load(*wan_weights)
    block = wan.get_model_object("diffusion_model").blocks[0]
    block.forward = functools.partial(fused._run, None, None, None, block)
    assert options_parameter(block)[0].name == "transformer_options"
    override = object()
    forward = types.SimpleNamespace(override=override)
    reason = hooks.why_not_reached(forward, block, {SLOT: override}).reason
    assert reason is pack_module("nodes.run.reasons").Reason.NO_HOOK
