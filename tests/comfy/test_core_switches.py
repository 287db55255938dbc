"""What ComfyUI 0.38 and other packs put on the attention hook besides ours: who runs which call."""

# ruff: noqa: F811  (fixtures)

import comfy.ldm.wan.model
import pytest
import torch
from comfy_extras.nodes_torch_compile import TorchCompileModel
from conftest import (
    BLOCKS,
    SLOT,
    difference,
    load,
    newest_only,
    pack_module,
    patch,
    sample,
    with_blocks,
    with_override,
)
from eight_bit import attention_of, install_sage
from newest_core.attention_backend import at_each_step, model_attention_backend
from newest_core.dispatch import ComfyAttention, wrap_attn
from newest_core.functions import attention_comfy_kitchen_int8 as kitchen
from newest_core.functions import attention_pytorch as by_torch
from newest_core.install import as_models_call_it, prefer
from newest_core.runs import newest, rounded, runs  # noqa: F401

DENSE = {"dense_steps": 1, "dense_blocks": 1}


BACKEND = {
    "before ours": lambda model, function: patch(model_attention_backend(model, function), **DENSE),
    "after ours": lambda model, function: model_attention_backend(patch(model, **DENSE), function),
    "each step": lambda model, function: at_each_step(patch(model, **DENSE), function),
}

EACH_STEP = pytest.param("each step", marks=newest_only("a step's callbacks get no options"))
ORDERS = ["before ours", "after ours", EACH_STEP]


@pytest.mark.parametrize("order", ORDERS)
def test_model_attention_backend_runs_the_dense_calls(runs, newest, summaries, order, request):
    by_comfyui = runs.sample(patch(runs.model, dense_attention="comfyui", **DENSE))
    ran_by_torch = runs.of_video(by_torch.calls)
    assert ran_by_torch == runs.dense and not kitchen.calls
    request.getfixturevalue("rounded")
    out = runs.sample(BACKEND[order](runs.model, kitchen))
    assert runs.of_video(by_torch.calls) == ran_by_torch
    assert runs.of_video(kitchen.calls) == runs.dense
    summary = summaries[-1]
    assert summary["radial_calls"] == runs.radial and summary["dense_backends"] == {}
    assert summary["precisions"] == {"8 bit": runs.radial}  # as auto follows the backend
    assert summary["dense_precisions"] == {"8 bit": runs.dense}
    assert 1e-5 < difference(out, by_comfyui) < 0.1


@pytest.mark.parametrize("order", ORDERS)
def test_torch_may_be_the_backend(runs, newest, summaries, order):
    newest(use_ck_attention=True)
    runs.sample(BACKEND[order](runs.model, by_torch))
    assert runs.of_video(by_torch.calls) == runs.dense and not runs.of_video(kitchen.calls)
    assert summaries[0]["radial_calls"] == runs.radial


def test_use_ck_attention(runs, newest, rounded, summaries):
    newest(use_ck_attention=True)
    runs.sample(patch(runs.model, **DENSE))
    assert runs.of_video(kitchen.calls) == runs.dense and not runs.of_video(by_torch.calls)
    assert summaries[0]["precisions"] == {"8 bit": runs.radial}
    assert summaries[0]["dense_precisions"] == {"8 bit": runs.dense}


def test_sage_3(runs, newest, rounded, summaries, monkeypatch):
    """No option of ComfyUI chooses it, nodes do."""
    sage = install_sage(monkeypatch)
    runs.sample(BACKEND["before ours"](runs.model, attention_of(sage, "attention3_sage")))
    assert sage.calls >= runs.dense  # and cross-attention
    assert summaries[0]["precisions"] == {"8 bit": runs.radial}


@pytest.mark.parametrize("how", ["option", *ORDERS])
def test_what_frees_q_k_and_v_early_still_can(runs, newest, how):
    """By containers, whose tensors nobody else holds."""
    newest(use_ck_attention=how == "option")
    with_it = BACKEND[how](runs.model, kitchen) if how != "option" else patch(runs.model, **DENSE)
    runs.sample(with_it)
    assert len(kitchen.freed) >= runs.dense and all(kitchen.freed)


@pytest.mark.parametrize("in_containers", [False, True])
def test_radial_is_right_in_tensors_and_in_containers(
    wan, newest, check, monkeypatch, in_containers
):
    given = []

    def take(q, k, v, *args, **kwargs):
        given.append(q)
        return by_torch(q.take(), k.take(), v.take(), *args, **kwargs)

    monkeypatch.setattr(by_torch, "container_function", take if in_containers else None)
    check(wan)
    assert bool(given) == in_containers


def test_without_such_a_one_we_get_tensors(runs, newest):
    seen = []

    def override(func, q, *args, **kwargs):
        ours = kwargs["transformer_options"][SLOT]
        seen.append((type(q), hasattr(ours, "container_function")))
        return func(q, *args, **kwargs)

    runs.sample(patch(with_override(runs.model, override), **DENSE))
    assert set(seen) == {(torch.Tensor, False)}


def test_a_function_that_a_pack_put_in_the_place_of_comfyuis_is_run(wan, newest, monkeypatch):
    """A call in containers does not say what it is for."""
    newest(use_ck_attention=True)
    ran = []

    @wrap_attn
    def theirs(q, *args, **kwargs):
        ran.append(q.shape)
        return by_torch(q, *args, **kwargs)

    monkeypatch.setattr(comfy.ldm.wan.model, "optimized_attention", as_models_call_it(theirs))
    sample(patch(wan, **DENSE))
    assert ran and not kitchen.calls


def test_under_torch_compile(wan_weights, newest, rounded, summaries):
    newest(use_ck_attention=True)
    model = patch(with_blocks(1, *wan_weights), dense_steps=1)
    plain = sample(model)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = TorchCompileModel.execute(model, lambda graph, _, **more: graph).args[0]
    assert difference(sample(model), plain) < 1e-5
    assert summaries[0]["dense_precisions"] == summaries[1]["dense_precisions"] == {"8 bit": 1}
    assert not torch._dynamo.utils.counters["graph_break"]
    torch._dynamo.reset()


def test_a_checkpoint_prefers_an_attention_for_some_blocks(wan_weights, newest, rounded, summaries):
    model = load(*wan_weights)
    blocks = model.model.diffusion_model.blocks
    for block, function in zip(blocks, (None, kitchen, None), strict=True):
        prefer(block.self_attn, ComfyAttention(function))
    sample(model)
    assert [shape[1] for shape in kitchen.calls] == [540, 540]
    kitchen.calls.clear()
    sample(patch(model, dense_steps=1, dense_attention="comfyui"))
    assert [shape[1] for shape in kitchen.calls] == [540]
    assert summaries[-1]["dense_precisions"] == {"exact": BLOCKS - 1, "8 bit": 1}
    assert summaries[-1]["precisions"] == {"exact": BLOCKS - 1, "8 bit": 1}


class Odd:
    """An override that answers anything."""

    def __call__(self, func, *args, **kwargs):
        return func(*args, **kwargs)

    def __getattr__(self, name):
        raise RuntimeError(name)

    def __hash__(self):
        raise RuntimeError("no hash")


def test_an_override_that_answers_anything(runs, summaries):
    radial = runs.sample(patch(runs.model, dense_attention="comfyui", **DENSE))
    out = runs.sample(patch(with_override(runs.model, Odd()), **DENSE))
    assert difference(out, radial) < 1e-5
    assert summaries[0]["radial_calls"] == summaries[1]["radial_calls"] == runs.radial


def test_sampling_goes_on_where_we_fail(runs, newest, monkeypatch):
    """With what q, k and v are in still full."""
    newest(use_ck_attention=True)
    plain = runs.sample(runs.model)
    monkeypatch.setattr(pack_module("nodes.hook.override"), "compute", None)
    assert torch.equal(runs.sample(patch(runs.model)), plain)
