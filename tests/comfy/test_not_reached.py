"""Blocks whose self-attention never comes to us: what the status says of them."""

import sys

import comfy.ldm.modules.attention as comfy_attention
import pytest
import torch
import zoo
from conftest import BLOCKS, newest_only, pack_module, patch, sample, with_wrapper

pytestmark = pytest.mark.oldest


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


def test_another_override_in_our_place_is_named(wan, summaries):
    def take_over(executor, *args, **kwargs):
        options = next(value for value in args if isinstance(value, dict))
        options["optimized_attention_override"] = lambda func, *a, **k: func(*a, **k)
        return executor(*args, **kwargs)

    model = patch(wan)
    model.add_wrapper_with_key("diffusion_model", "test", take_over)
    sample(model, steps=1, cfg=1.0)
    assert "another node's attention is on the hook" in summaries[0]["status"]


def without_the_hook(monkeypatch):
    """Another pack's function in the place of ComfyUI's, which no hook is asked before.

    As older versions of ComfyUI-RadialAttn have it, in the file of Wan's model alone.
    """
    ours = comfy_attention.optimized_attention

    def attention_of_theirs(*args, transformer_options=None, **named):
        return ours.__wrapped__(*args, **named)

    attention_of_theirs.__module__ = "/somewhere/custom_nodes/ComfyUI-Other.nodes"
    for module in [*sys.modules.values()]:
        if vars(module).get("optimized_attention") is ours:
            monkeypatch.setattr(module, "optimized_attention", attention_of_theirs)


TYPICAL = [case for case in zoo.CASES if case.typical and case.is_there]
WHY = "optimized_attention is replaced by ComfyUI-Other, and asks no attention hook"


@pytest.mark.parametrize("case", TYPICAL, ids=lambda case: case.name)
def test_a_replaced_function_is_named(case, summaries, monkeypatch):
    model, inputs = case.model(), case.inputs()
    without_the_hook(monkeypatch)
    zoo.sample(patch(model), inputs, steps=1)
    (summary,) = summaries
    calls = len(case.calls) * summary["model_calls"]
    assert summary["dense_calls"][WHY] == calls and summary["radial_calls"] == 0
    assert WHY in summary["status"]


def test_what_asks_the_hook():
    asks = pack_module("nodes.comfyui.attention_functions").asks_the_hook

    def theirs(q, k, v, heads, **named):
        pass

    decorated = comfy_attention.wrap_attn(theirs)
    assert asks(comfy_attention.optimized_attention)
    assert asks(decorated) and asks(torch.compiler.disable()(decorated))
    assert not asks(theirs) and not asks(torch.compiler.disable()(theirs))


@newest_only("its blocks always run the video")
def test_a_video_that_a_guider_leaves_as_it_was_is_skipped(summaries):
    """LTXVideo's MultimodalGuider computes the video in some steps only, and the sound in all."""
    case = next(case for case in zoo.CASES if case.name == "ltx-2 i2v with sound")

    def wrapper(executor, *args, **kwargs):
        options = next(value for value in args if isinstance(value, dict))
        step = (options["sample_sigmas"] == options["sigmas"][0]).nonzero().item()
        options["run_vx"] = step != 1
        return executor(*args, **kwargs)

    zoo.sample(with_wrapper(patch(case.model()), wrapper), case.inputs(), steps=3)
    (summary,) = summaries
    assert "asks no attention hook" not in summary["text"]
    assert "1 of 3 steps skipped" in summary["status"]
