"""Other packs' sparse attention beside ours: who runs which call, and what the report says."""

# ruff: noqa: F811  (fixtures)

import sys
from types import SimpleNamespace

import comfy.ldm.modules.attention as comfy_attention
import comfy.ldm.wan.model
import comfy.model_base
import pytest
import torch
import zoo
from conftest import BLOCKS, difference, pack_module, patch, sample, with_override
from newest_core import sparse_attention
from newest_core.attention_backend import model_attention_backend
from newest_core.functions import attention_comfy_kitchen_int8 as kitchen
from newest_core.functions import attention_pytorch as by_torch
from newest_core.radial_attn import patch_radial_attn
from newest_core.runs import newest, rounded, runs  # noqa: F401
from newest_core.sol_attn import attention_sol, sol_attn_patch
from newest_core.sparse_attention import blocks_take_an_attention, model_sparse_attention
from test_core_switches import Odd

DENSE = {"dense_steps": 1, "dense_blocks": 1}


SPARSE = {
    "Model Sparse Attention": model_sparse_attention,
    "ComfyUI-SolAttn_triton": sol_attn_patch,
    "ComfyUI-RadialAttn": patch_radial_attn,
}
ORDERS = {
    "before ours": lambda node, model, **settings: patch(node(model), **settings),
    "after ours": lambda node, model, **settings: node(patch(model, **settings)),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("owner", SPARSE)
def test_another_sparse_attention_takes_no_call_of_ours(
    wan, any_density, summaries, caplog, owner, order
):
    truth = sample(patch(wan, **DENSE))
    theirs = sample(SPARSE[owner](wan))
    assert len(sparse_attention.calls) == 2 * BLOCKS and difference(theirs, truth) > 0.01
    model = ORDERS[order](SPARSE[owner], wan, **DENSE)
    caplog.set_level("INFO", "radial_attention")
    assert torch.equal(sample(model), truth)
    assert not sparse_attention.calls
    assert summaries[-1]["radial_calls"] == BLOCKS - 1
    said = f"{owner}, another sparse attention, is on the hook: not used"
    override = pack_module("nodes.hook.attach").override_of(model)
    report = pack_module("nodes.run.summary_text").report(override.runs[-1].read())
    for text in (summaries[-1]["status"], summaries[-1]["text"], report):
        assert text.count(said) == 1
    assert sum(said in line and "dense steps" in line for line in caplog.messages) == 2  # and text
    assert "another sparse" not in summaries[0]["status"]


@pytest.mark.parametrize("owner", SPARSE)
def test_it_is_no_choice_of_a_dense_attention(wan, any_density, summaries, monkeypatch, owner):
    """Dense calls run the fastest kernel, as without it."""
    dense = pack_module("nodes.hook.dense_choice")
    monkeypatch.setattr(dense, "is_beaten", lambda *call: True)
    monkeypatch.setattr(dense, "dense_attention", lambda q, *call: (torch.zeros_like(q), "flex"))
    sample(patch(SPARSE[owner](wan), **DENSE))
    assert summaries[0]["dense_backends"] == {"flex": BLOCKS + 1}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("owner", [*SPARSE][:2])
def test_what_it_stands_on_runs_the_dense_calls(runs, newest, rounded, summaries, owner, order):
    def both(model):
        return SPARSE[owner](model_attention_backend(model, kitchen))

    runs.sample(ORDERS[order](both, runs.model, **DENSE))
    assert not sparse_attention.calls
    assert runs.of_video(kitchen.calls) == runs.dense and not runs.of_video(by_torch.calls)
    assert summaries[0]["precisions"] == {"8 bit": runs.radial}
    assert f"{owner}, another" in summaries[0]["status"]


def test_one_on_another(wan, newest, any_density):
    stacked = sol_attn_patch(model_sparse_attention(model_attention_backend(wan, kitchen)))
    sample(patch(stacked, **DENSE))
    assert not sparse_attention.calls and len(kitchen.calls) >= BLOCKS + 1


@pytest.mark.parametrize("order", ORDERS)
def test_blocks_that_ask_no_hook_are_passed_by(newest, any_density, summaries, monkeypatch, order):
    """In MiniMax H3, Model Sparse Attention replaces the attention of blocks."""
    if not hasattr(comfy.model_base, "MiniMaxH3"):
        pytest.skip("older")
    case = next(each for each in zoo.CASES if each.kind == "MiniMaxH3" and each.typical)
    inputs, model, others = case.inputs(), case.model(), []

    def another_packs(args, extra):
        others.append(1)
        return extra["original_block"](args)

    blocks_take_an_attention(monkeypatch)
    plain = zoo.sample(model, inputs)
    model = model.clone()
    model.set_model_patch_replace(another_packs, "dit", "double_block", 1)
    zoo.sample(model_sparse_attention(model), inputs)
    assert len(sparse_attention.calls) == 2 * 2 * 2 and len(others) == 4
    out = zoo.sample(ORDERS[order](model_sparse_attention, model, dense_steps=9), inputs)
    assert not sparse_attention.calls and len(others) == 8
    assert difference(out, plain) < 1e-5
    zoo.sample(ORDERS[order](model_sparse_attention, model), inputs)
    assert not sparse_attention.calls and summaries[-1]["radial_calls"] == 2 * 2 * 2
    assert "Model Sparse Attention, another" in summaries[-1]["status"]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("owner", SPARSE)
@pytest.mark.parametrize("frames", [1, 2], ids=["single frame", "too dense"])
def test_a_video_too_short_for_us_is_left_to_it(wan, summaries, owner, order, frames):
    size = {"frames": frames, "height": 64, "width": 64} if frames == 1 else {"frames": 2}
    model = ORDERS[order](SPARSE[owner], wan, **{**DENSE, "dense_steps": 0, "dense_blocks": 0})
    sample(model, **size)
    assert len(sparse_attention.calls) == 2 * BLOCKS
    assert summaries[0]["radial_calls"] == 0 and "another sparse" not in summaries[0]["text"]


def test_a_pass_that_is_not_ours_is_left_to_it(wan, summaries, monkeypatch):
    wrapper = pack_module("nodes.hook.forward_wrapper")
    reasons = pack_module("nodes.run.reasons")
    why = reasons.Why(reasons.Reason.UNKNOWN_MODEL, "It")
    monkeypatch.setattr(wrapper, "why_all_dense", lambda *pass_of: why)
    sample(patch(model_sparse_attention(wan), **DENSE))
    assert len(sparse_attention.calls) == 2 * BLOCKS


def test_its_function_for_all_models(wan, any_density, summaries, monkeypatch):
    """SOL_ATTN=1, set when ComfyUI starts."""
    truth = sample(patch(wan, dense_attention="comfyui", **DENSE))
    for module in (comfy_attention, comfy.ldm.wan.model):
        monkeypatch.setattr(module, "optimized_attention", attention_sol)
    sparse_attention.calls.clear()
    assert difference(sample(patch(wan, **DENSE)), truth) < 1e-4  # torch's, not the option's
    assert not sparse_attention.calls
    assert "ComfyUI-SolAttn_triton, another" in summaries[-1]["status"]


@pytest.mark.parametrize(
    "module, name, owner",
    [
        ("comfy_extras.nodes_sparse_attention", "override", "Model Sparse Attention"),
        ("C:\\ComfyUI\\custom_nodes\\ComfyUI-SolAttn_triton", "override", "ComfyUI-SolAttn_triton"),
        ("/x/custom_nodes/comfyui_x_2.sparge.nodes", "attention", "comfyui.2"),
        ("spas_sage_attn.core", "attention", "spas_sage_attn"),
        ("/x/sparse/custom_nodes/ComfyUI-KJNodes.nodes", "attention_override_sage", None),
        ("comfy.ldm.modules.attention", "attention_pytorch", None),
        ("comfy.model_patcher", "optimized_attention_override", None),
    ],
)
def test_names(module, name, owner):
    def function(func, *args):
        pass

    function.__module__, function.__qualname__ = module, name
    assert pack_module("nodes.comfyui.sparse_attention").sparse_owner(function) == owner


def test_the_pack_of_a_module_with_a_name_of_its_own(monkeypatch):
    """A pack that puts its folder on Python's path, and a library inside one."""
    owner = pack_module("nodes.comfyui.sparse_attention").sparse_owner
    for pack, found in (("ComfyUI-RadialAttn", True), ("KJNodes", False)):
        file = f"/x/custom_nodes/{pack}/wan/attention.py"
        monkeypatch.setitem(sys.modules, "wan.attention", SimpleNamespace(__file__=file))

        def function(func):
            pass

        function.__module__ = "wan.attention"
        assert owner(function) == (pack if found else None)
        function.__module__, function.__qualname__ = "wan.attention", "sparse_attention"
        assert owner(function.__get__(0)) == pack


def test_our_own_pack_is_none_of_them(monkeypatch):
    """Whatever its folder is called."""
    module, folder = pack_module("nodes.comfyui.sparse_attention"), "/x/custom_nodes/radial-attn"

    def function(func):
        pass

    function.__module__ = f"{folder}.nodes.hook.override"
    monkeypatch.setattr(module, "OURS", folder)
    assert module.sparse_owner(function) is None


@pytest.mark.parametrize("order", ORDERS)
def test_what_it_keeps_may_answer_anything(wan, any_density, summaries, order):
    """Then the dense calls run ComfyUI's attention, and the others are radial as ever."""
    truth = sample(patch(wan, dense_attention="comfyui", **DENSE))

    def over_odd(model):
        return sol_attn_patch(with_override(model, Odd()))

    assert difference(sample(ORDERS[order](over_odd, wan, **DENSE)), truth) < 1e-5
    assert summaries[1]["radial_calls"] == summaries[0]["radial_calls"] == BLOCKS - 1
    assert summaries[1]["dense_calls"] == summaries[0]["dense_calls"]


def test_what_it_keeps_may_be_no_override():
    """A function that takes q first is not called with what it stands for."""

    def below(func, q, *args):
        pass

    def attention(q, k, v, heads):
        pass

    def sparse(previous):
        def override(func, *args):
            return previous

        override.__module__ = sparse_attention.MODULE
        return override

    below.__module__ = "pack"
    below_sparse = pack_module("nodes.comfyui.sparse_attention").below_sparse
    for previous, found in (
        (below, below),
        (sparse(below), below),
        (attention, None),
        (None, None),
    ):
        assert below_sparse(sparse(previous)) == (found, "Model Sparse Attention")
    assert below_sparse(below) == (below, None)
