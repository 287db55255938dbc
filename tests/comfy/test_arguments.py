"""Arguments of an attention call: radial attention honours them or leaves the call dense."""

from collections import Counter

import pytest
import torch
from comfy.ldm.modules.attention import attention_pytorch
from conftest import BLOCKS, ask_the_hook, pack_module, patch, sample

ARGUMENTS = {  # that ComfyUI's models and other packs pass to the hook
    "is_causal": True,
    "softcap": 30.0,
    "attn_precision": torch.float32,
    "window_size": (4, 4),
    "attn_bias": torch.zeros(1),  # as a newer ComfyUI may have it
}
HARMLESS = {  # radial attention comes out the same
    "low_precision_attention": True,
    "enable_gqa": True,  # as many heads of k and v as of q
    "preferred_attention": object(),
    "dropout_p": 0.0,
}


def reaches_comfyui(ours, options, **named) -> bool:
    """Whether a call over the video reaches ComfyUI's function, with all its arguments."""
    q, k, v = torch.randn(3, 1, 540, 256).unbind(0)
    seen = []

    def func(q, k, v, heads, **kwargs):
        seen.append(kwargs)
        return torch.zeros_like(q)

    ours(func, q, k, v, 2, transformer_options={**options, "block_index": 2}, **named)
    assert not seen or named.items() <= seen[0].items()
    return bool(seen)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_an_unknown_argument_keeps_a_call_dense(wan, summaries, name):
    def ask(ours, options):
        return reaches_comfyui(ours, options, **{name: ARGUMENTS[name]})

    assert ask_the_hook(wan, ask)
    assert summaries[0]["dense_calls"][f"attention with {name}"] == 1


@pytest.mark.parametrize("name", [*ARGUMENTS, "mask", "scale"])
def test_an_argument_that_is_off_stays_radial(wan, name):
    def ask(ours, options):
        off = (None,) if name in ("attn_precision", "mask", "scale") else (None, False)
        return [reaches_comfyui(ours, options, **{name: value}) for value in off]

    assert not any(ask_the_hook(wan, ask))


@pytest.mark.parametrize("name", HARMLESS)
def test_an_argument_that_changes_nothing_stays_radial(wan, name):
    def ask(ours, options):
        return reaches_comfyui(ours, options, **{name: HARMLESS[name]})

    assert not ask_the_hook(wan, ask)


@pytest.mark.parametrize("skip_reshape", [False, True])
def test_fewer_heads_of_k_and_v_are_dense(wan, summaries, skip_reshape):
    shapes = ((1, 540, 256), (1, 540, 128))
    if skip_reshape:
        shapes = ((1, 2, 540, 128), (1, 1, 540, 128))
    seen = []

    def func(q, k, v, heads, **kwargs):
        seen.append((k.shape, kwargs["enable_gqa"]))
        return torch.zeros(1, 540, 256)

    def ask(ours, options):
        q, kv = map(torch.randn, shapes)
        options = {**options, "block_index": 2}
        kwargs = {"enable_gqa": True, "skip_reshape": skip_reshape}
        ours(func, q, kv, kv, 2, transformer_options=options, **kwargs)

    ask_the_hook(wan, ask)
    assert seen == [(shapes[1], True)]
    assert summaries[0]["dense_calls"]["keys have other heads than queries"] == 1


@pytest.mark.parametrize("name", ["is_causal", "softcap", "attn_precision"])
def test_an_unknown_argument_reaches_comfyui_from_a_graph(wan, name):
    q, k, v = torch.randn(3, 1, 540, 256).unbind(0)
    in_pass = pack_module("nodes.hook.current_pass").in_pass
    seen, value = [], ARGUMENTS[name]

    @torch.compiler.disable
    def func(q, k, v, heads, **kwargs):
        seen.append(kwargs)
        return torch.zeros_like(q)

    def ask(ours, options):
        def call(q, k, v):
            return ours(func, q, k, v, 2, transformer_options=options, **{name: value})

        torch._dynamo.reset()
        with in_pass(options["radial_attention"], options):
            return torch.compile(call, backend="eager")(q, k, v)

    ask_the_hook(wan, ask)
    assert seen[0][name] == value


def test_compiled_and_eager_calls_decline_the_same_arguments(wan):
    """Whatever keeps an eager call dense also keeps a compiled call out of the op."""
    compiled, arguments = pack_module("nodes.hook.compiled"), pack_module("nodes.hook.arguments")
    plain = dict.fromkeys(("mask", "attn_precision", "skip_reshape", "skip_output_reshape"))
    q = torch.randn(1, 540, 256)
    function = attention_pytorch.__wrapped__
    assert compiled.why_not(function, q, q, q, plain) is None
    for name, value in ARGUMENTS.items():
        assert arguments.unknown_arguments({**plain, name: value}) == (name,)
        assert compiled.why_not(function, q, q, q, {**plain, name: value})
    for name, value in HARMLESS.items():  # the op does not pass them on
        assert compiled.why_not(function, q, q, q, {**plain, name: value})


def test_the_probe_does_not_measure_a_call_with_an_unknown_argument(own_wan):
    import nodes

    model = own_wan.clone()
    attention = model.get_model_object("diffusion_model").blocks[0].self_attn

    def theirs(x, freqs, transformer_options):
        from comfy.ldm.modules.attention import optimized_attention

        q, k, v = (getattr(attention, name)(x) for name in "qkv")
        options = {"transformer_options": transformer_options, "softcap": 30.0}
        return attention.o(optimized_attention(q, k, v, heads=2, **options))

    model.add_object_patch("diffusion_model.blocks.0.self_attn.forward", theirs)
    node = nodes.NODE_CLASS_MAPPINGS["RadialAttentionProbe"]
    probed = node.execute(model, "0", "all", 16).args[0]
    sample(probed, steps=1, cfg=1.0)
    run = pack_module("nodes.probing.hook").probe_of(probed).latest
    assert {block for _, block in run.calls} == {1, 2}
    assert run.reasons["attention with softcap"] == 1


def test_a_kernel_that_failed_is_used_again_in_the_next_run(wan, summaries, monkeypatch):
    sdpa, real = pack_module("radial_core.backends.sdpa"), []

    def fails_once(*arguments):
        if not real:
            real.append(1)
            raise RuntimeError("the disk was full")
        return run(*arguments)

    run, failures = sdpa.run, pack_module("radial_core.failures")
    monkeypatch.setattr(sdpa, "run", fails_once)
    monkeypatch.setattr(failures, "_logged", set())  # so that other tests can log it again
    monkeypatch.setattr(failures, "_failed_runs", Counter())
    for _ in range(2):
        sample(patch(wan), steps=1, cfg=1.0)
    first, second = summaries
    assert first["radial_calls"] == 0 and first["dense_calls"]["RuntimeError"] == BLOCKS
    assert second["radial_calls"] == BLOCKS
