"""Which kernel runs the calls that stay dense: ComfyUI's own or the fastest exact one."""

import gc
import weakref

import comfy.ldm.wan.model
import pytest
import torch
from comfy.cli_args import args
from comfy.ldm.modules.attention import attention_pytorch, wrap_attn
from comfy_extras.nodes_torch_compile import TorchCompileModel
from conftest import BLOCKS, difference, pack_module, patch, sample, with_override

FAST = "flex"
DENSE = {"dense_steps": 1, "dense_blocks": 1}


@pytest.fixture
def kernel(monkeypatch):
    """Installs a fast kernel; the list has (shape, scale) of its calls."""
    calls = []

    def run(q, k, v, softmax_scale, approximate):
        calls.append((tuple(q.shape), softmax_scale))
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=softmax_scale)
        return out.transpose(1, 2), FAST

    dense = pack_module("nodes.hook.dense_choice")
    monkeypatch.setattr(dense, "fastest_dense", lambda q, k, v, approximate: FAST)
    monkeypatch.setattr(dense, "dense_attention", run)
    return calls


def passing_on(func, *arguments, **kwargs):
    return func(*arguments, **kwargs)


@pytest.mark.parametrize(
    "choice, on_the_hook, option, taken",
    [
        ("auto", False, None, True),
        ("auto", True, None, False),
        ("auto", False, "use_sage_attention", False),
        ("auto", False, "use_pytorch_cross_attention", False),
        ("auto", False, "use_ck_attention", False),  # newer than 0.30
        ("comfyui", False, None, False),
        ("fastest", False, None, True),
        ("fastest", True, "use_sage_attention", True),
    ],
)
def test_which_kernel_runs_the_dense_calls(
    wan, kernel, summaries, monkeypatch, choice, on_the_hook, option, taken
):
    if option is not None:
        monkeypatch.setattr(args, option, True, raising=False)
    model = with_override(wan, passing_on) if on_the_hook else wan
    out = sample(patch(model, dense_attention=choice, **DENSE))
    (summary,) = summaries
    dense = summary["dense_calls"]["dense step"] + summary["dense_calls"]["dense block"]
    assert dense == BLOCKS + 1
    assert summary["dense_backends"] == ({FAST: dense} if taken else {})
    assert (f"dense by {FAST}" in summary["text"]) == taken
    assert kernel == [((2, 540, 2, 128), None)] * (dense if taken else 0)
    assert difference(out, sample(patch(wan, dense_attention="comfyui", **DENSE))) < 1e-5


@pytest.mark.parametrize(
    "case",
    [{"frames": 1, "height": 64, "width": 64}, {"frames": 2, "height": 48, "width": 48}],
    ids=["single frame", "two frames"],
)
def test_calls_that_the_pattern_cannot_speed_up(wan, kernel, summaries, case):
    assert difference(sample(patch(wan), **case), sample(wan, **case)) < 1e-5
    assert summaries[0]["dense_backends"] == {FAST: BLOCKS * summaries[0]["model_calls"]}


def test_without_a_faster_kernel_comfyuis_runs(wan, summaries):
    """As on a CPU."""
    everything = {"dense_steps": 9, "dense_attention": "fastest"}
    assert torch.equal(sample(patch(wan, **everything)), sample(wan))
    assert summaries[0]["dense_backends"] == {}


def test_a_failing_kernel_leaves_the_dense_calls_to_comfyui(wan, kernel, summaries, monkeypatch):
    asked = []

    def out_of_memory(*args):
        asked.append(args)
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    plain = sample(patch(wan, dense_attention="comfyui", **DENSE), steps=3)
    monkeypatch.setattr(pack_module("nodes.hook.dense_choice"), "dense_attention", out_of_memory)
    model = patch(wan, **DENSE)
    assert torch.equal(sample(model, steps=3), plain)
    assert summaries[0] == summaries[1] and summaries[1]["radial_calls"] == 2 * (BLOCKS - 1)
    assert len(asked) == 1
    sample(model)
    assert len(asked) == 2  # asked again in the next run


def test_a_replaced_attention_function_is_the_users_choice(wan, kernel, summaries, monkeypatch):
    """Some packs replace the function itself."""

    @wrap_attn
    def attention_of_a_pack(*arguments, **kwargs):
        return attention_pytorch.__wrapped__(*arguments, **kwargs)

    monkeypatch.setattr(comfy.ldm.wan.model, "optimized_attention", attention_of_a_pack)
    sample(patch(wan, **DENSE))
    assert summaries[0]["dense_backends"] == {} and not kernel
    sample(patch(wan, dense_attention="fastest", **DENSE))
    assert summaries[1]["dense_backends"] == {FAST: len(kernel)} != {FAST: 0}


def test_a_run_leaves_nothing_to_the_garbage_collector(wan):
    """Tensors that other nodes put into the options may be on the GPU: the run must free them."""
    theirs = torch.zeros(1)
    seen = weakref.ref(theirs)
    model = patch(wan)
    model.model_options["transformer_options"]["theirs"] = theirs
    gc.collect()
    gc.disable()
    try:
        sample(model)
        model.model_options["transformer_options"].pop("theirs")
        del theirs
        assert seen() is None
    finally:
        gc.enable()


def test_under_torch_compile(wan, kernel, summaries):
    torch._dynamo.reset()
    plain = sample(patch(wan, **DENSE))
    model = TorchCompileModel.execute(patch(wan, **DENSE), lambda graph, _, **options: graph).args[
        0
    ]
    assert difference(sample(model), plain) < 1e-5
    assert summaries[0] == summaries[1] and summaries[0]["dense_backends"]
