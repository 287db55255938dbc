"""The input precision: what runs in 8 bits, what stays exact, and what the report says of it."""

from types import SimpleNamespace

import comfy.ldm.modules.attention as comfy_attention
import comfy.ldm.wan.model
import comfy.model_management
import pytest
import torch
from comfy.cli_args import args
from comfy_extras.nodes_torch_compile import TorchCompileModel
from conftest import BLOCKS, difference, load, pack_module, patch, prompt, sample, with_override
from eight_bit import (
    ComfyAttention,
    attention_of,
    forget,
    install_sage,
    kitchen,
    model_attention_backend,
    passing_on,
    patch_flash_kj,
    patch_sage_kj,
    register_backend,
)
from trainer import gradients, train, wan_model

DENSE = {"dense_steps": 1, "dense_blocks": 1}  # of 2 steps: 4 dense calls, 2 radial
RADIAL, ALL_DENSE = BLOCKS - 1, BLOCKS + 1


@pytest.fixture
def rounded(monkeypatch):
    yield register_backend(monkeypatch)
    forget()


@pytest.fixture
def sage(monkeypatch):
    return install_sage(monkeypatch)


@pytest.fixture
def use_sage(monkeypatch, sage):
    """ComfyUI, started with --use-sage-attention."""
    monkeypatch.setattr(args, "use_sage_attention", True)
    monkeypatch.setattr(comfy.ldm.wan.model, "optimized_attention", comfy_attention.attention_sage)
    return sage


def use_ck(monkeypatch):
    """ComfyUI newer than 0.30, started with --use-ck-attention."""
    function = kitchen()
    monkeypatch.setattr(args, "use_ck_attention", True, raising=False)
    monkeypatch.setattr(comfy.ldm.wan.model, "optimized_attention", function)
    functions = pack_module("nodes.comfyui.attention_functions").FUNCTIONS
    monkeypatch.setitem(functions, function.__name__, function.__wrapped__)


def ran(summaries, number=-1):
    """(of the radial calls, of the dense ones), which all ran in one precision."""
    found = []
    for name in ("precisions", "dense_precisions"):
        assert len(summaries[number][name]) <= 1
        found.append(next(iter(summaries[number][name]), None))
    return tuple(found)


def report(model):
    override = pack_module("nodes.hook.attach").override_of(model)
    return pack_module("nodes.run.summary_text").report(override.runs[-1].read())


@pytest.mark.parametrize("precision, radial", [("auto", "8 bit"), ("exact", "exact")])
@pytest.mark.parametrize("where", ["a node", "ComfyUI's node", "ComfyUI's flag", "its newer flag"])
def test_auto_follows_sage_and_kitchen(
    wan, rounded, sage, summaries, monkeypatch, request, where, precision, radial
):
    if where == "a node":
        wan = with_override(wan, patch_sage_kj(sage))
    elif where == "ComfyUI's node":
        wan = with_override(wan, model_attention_backend(kitchen()))
    elif where == "ComfyUI's flag":
        request.getfixturevalue("use_sage")
    else:
        use_ck(monkeypatch)
    sample(patch(wan, precision=precision, **DENSE))
    assert ran(summaries) == (radial, "8 bit")
    assert len(rounded.calls) == (RADIAL if radial == "8 bit" else 0)
    assert summaries[0]["dense_backends"] == {}


@pytest.mark.parametrize(
    "override, dense",
    [(None, "exact"), (passing_on, None), (patch_flash_kj(), None)],
    ids=["nothing", "a node", "flash attention"],
)
def test_auto_is_exact_otherwise(wan, rounded, summaries, override, dense):
    """Also where an 8-bit kernel of ours would be the fastest for dense calls."""
    model = wan if override is None else with_override(wan, override)
    out = sample(patch(model, **DENSE))
    assert ran(summaries) == ("exact", dense) and rounded.calls == []
    assert torch.equal(out, sample(patch(model, precision="exact", **DENSE)))


def test_auto_is_exact_where_the_model_asks_for_it(wan, rounded, use_sage, summaries, monkeypatch):
    """ComfyUI's own function for SageAttention is exact there too."""

    def attention(*arguments, **more):
        return comfy_attention.attention_sage(*arguments, low_precision_attention=False, **more)

    monkeypatch.setattr(comfy.ldm.wan.model, "optimized_attention", attention)
    sample(patch(wan, **DENSE))
    assert ran(summaries)[0] == "exact" and use_sage.calls == 0 and rounded.calls == []


@pytest.mark.parametrize(
    "is_there, radial, dense", [(True, "exact", "exact"), (False, *["8 bit"] * 2)]
)
def test_fastest_may_take_the_dense_calls_from_sage(
    wan, rounded, use_sage, summaries, monkeypatch, is_there, radial, dense
):
    """Then dense attention is exact here, where an exact kernel is faster than torch's own."""
    names = ("sdpa",) if is_there else ()
    ranking = pack_module("radial_core.backends.ranking")
    monkeypatch.setattr(ranking, "_fastest_dense_first", lambda call: names)
    sdpa = pack_module("radial_core.backends.sdpa")
    monkeypatch.setattr(sdpa, "why_not_dense", lambda call: None, raising=False)
    monkeypatch.setattr(sdpa, "dense", dense_by_torch, raising=False)
    sample(patch(wan, dense_attention="fastest", **DENSE))
    assert ran(summaries) == (radial, dense)
    assert summaries[0]["dense_backends"] == ({"sdpa": ALL_DENSE} if is_there else {})


def dense_by_torch(q, k, v, softmax_scale):
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=softmax_scale)
    return out.transpose(1, 2)


@pytest.mark.parametrize(
    "settings, chosen, dense",
    [
        ({}, None, "8 bit"),  # nothing was chosen for the dense calls
        ({"dense_attention": "fastest"}, patch_flash_kj(), "8 bit"),
        ({"dense_attention": "comfyui"}, None, "exact"),
        ({}, patch_flash_kj(), None),
    ],
    ids=["nothing chosen", "fastest", "comfyui", "a node"],
)
def test_8_bit(wan, rounded, summaries, settings, chosen, dense):
    model = wan if chosen is None else with_override(wan, chosen)
    out = sample(patch(model, precision="8 bit", **DENSE, **settings))
    assert ran(summaries) == ("8 bit", dense)
    assert rounded.calls.count("sparse") == RADIAL
    assert summaries[0]["dense_backends"] == ({"rounded": ALL_DENSE} if dense == "8 bit" else {})
    exact = sample(patch(model, precision="exact", **DENSE, **settings))
    assert 1e-5 < difference(out, exact) < 0.05
    assert summaries[0]["backend"] == "rounded" and summaries[1]["backend"] == "sdpa"


def test_where_no_8_bit_backend_can_run_an_exact_one_does_and_says_why(wan, rounded, summaries):
    rounded.reason = "rounded needs another GPU"
    model = patch(wan, precision="8 bit")
    out = sample(model)
    assert ran(summaries) == ("exact", None) and rounded.calls == []
    for text in (summaries[0]["status"], summaries[0]["text"], report(model)):
        assert "exact (sdpa)" in text and text.count("rounded needs another GPU") == 1
    assert torch.equal(out, sample(patch(wan)))
    assert "rounded" not in summaries[1]["text"]


@pytest.mark.parametrize(
    "error, said",
    [
        (RuntimeError("illegal instruction"), "rounded failed: RuntimeError: illegal instruction"),
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), "rounded lacked memory in some calls"),
    ],
    ids=["failure", "memory"],
)
def test_one_that_fails_leaves_its_calls_to_an_exact_one(wan, rounded, summaries, error, said):
    def fails(*args):
        raise error

    works = rounded.run
    rounded.run = lambda *args: (fails if rounded.calls else works)(*args)
    model = patch(wan, precision="8 bit", dense_attention="comfyui")
    sample(model)
    assert set(summaries[0]["precisions"]) == {"exact", "8 bit"}
    assert said in summaries[0]["status"]
    rounded.run = works
    sample(model)
    assert ran(summaries)[0] == "8 bit" and "not 8 bit" not in summaries[1]["status"]


def test_without_a_ranked_one_it_says_so(wan, summaries):
    """As on a CPU."""
    sample(patch(wan, precision="8 bit"))
    assert ran(summaries)[0] == "exact"
    # Longer videos may have one.
    assert "no 8-bit kernel is known to be faster on cpu at 540 tokens" in summaries[0]["status"]


def test_one_that_is_not_installed_does_not_hide_why_the_next_one_did_not_run(rounded, monkeypatch):
    precision, call = pack_module("nodes.hook.precision"), pack_module("radial_core.call").Call
    names = ("spargeattn", "rounded")
    monkeypatch.setattr(precision, "ranking", lambda *call, approximate: names)
    said = precision.why_exact("auto", call(torch.device("cpu"), torch.bfloat16, 128, 128), 480)
    assert "spargeattn needs" in said and "rounded lacked memory" in said


@pytest.mark.parametrize(
    "backend, precision, radial, dense",
    [
        ("rounded", "auto", "8 bit", "exact"),
        ("rounded", "8 bit", "8 bit", "8 bit"),
        ("sdpa", "auto", "exact", "8 bit"),
        ("sdpa", "exact", "exact", "exact"),
    ],
)
def test_a_named_backend(wan, rounded, sage, summaries, backend, precision, radial, dense):
    if dense == "8 bit" and precision == "auto":  # it stays exact beside Sage
        wan = with_override(wan, patch_sage_kj(sage))
    sample(patch(wan, backend=backend, precision=precision, **DENSE))
    assert ran(summaries) == (radial, dense) and summaries[0]["backend"] == backend


@pytest.mark.parametrize("backend, precision", [("rounded", "exact"), ("sdpa", "8 bit")])
def test_a_named_backend_of_another_precision_is_refused(wan, rounded, backend, precision):
    with pytest.raises(ValueError, match=f"backend {backend} is .* but precision is {precision}: "):
        patch(wan, backend=backend, precision=precision)


def test_the_choices_are_what_backends_call_their_precision():
    module = pack_module("nodes.hook.precision")
    backends = pack_module("radial_core.backends").BACKENDS
    named = {module.precision_of(backend) for backend in backends}
    assert named == {module.EXACT, module.EIGHT_BIT} == set(module.CHOICES) - {"auto"}


def test_what_a_checkpoint_chose(wan_weights, rounded, summaries):
    """ComfyUI newer than 0.30 forgets it where an override is on the hook."""
    model, calls = load(*wan_weights), []
    function = kitchen()

    def counted(q, k, v):
        calls.append(q.shape)
        return torch.nn.functional.scaled_dot_product_attention(q, k, v)

    chosen = attention_of(counted, function.__name__)
    for block in model.model.diffusion_model.blocks:
        block.self_attn.comfy_attention = ComfyAttention(chosen)
    sample(patch(model, **DENSE))
    assert ran(summaries) == ("8 bit", "8 bit")
    assert len(calls) == ALL_DENSE and len(rounded.calls) == RADIAL
    sample(patch(with_override(model, passing_on), **DENSE))
    assert ran(summaries) == ("exact", None)  # an override before ours counts more


@pytest.mark.parametrize("precision", ["auto", "8 bit"])
@pytest.mark.parametrize("backend", ["auto", "rounded"])
@pytest.mark.parametrize("checkpoints", [False, True])
def test_training_stays_exact(
    stand_ins, rounded, use_sage, summaries, precision, backend, checkpoints
):
    def gradient(**settings):
        model = patch(wan_model(stand_ins), dense_attention="comfyui", **settings)
        lora, _ = train(model, prompt(), gradient_checkpointing=checkpoints)
        return gradients(lora)

    exact = gradient(precision="exact")
    assert torch.equal(gradient(precision=precision, backend=backend), exact)
    assert rounded.calls == [] and ran(summaries) == ("exact", None)
    asked_for = precision == "8 bit" or backend == "rounded"
    assert ("training stays exact" in summaries[-1]["text"]) == asked_for


@pytest.mark.parametrize("prepared", ["by ComfyUI", "with gradients"])
def test_a_pass_of_a_training_without_gradients_stays_exact(
    wan, rounded, summaries, monkeypatch, prepared
):
    """As the forward pass of a checkpoint: it must be as when it is computed again."""
    if prepared == "by ComfyUI":
        monkeypatch.setattr(comfy.model_management, "in_training", True)

    def wrapper(apply, p):
        gradients = torch.enable_grad if prepared == "with gradients" else torch.no_grad
        with gradients():
            return apply(p["input"], p["timestep"], **p["c"]).detach()

    model = patch(wan, precision="8 bit", **DENSE)
    model.set_model_unet_function_wrapper(wrapper)
    sample(model)
    assert ran(summaries)[0] == "exact" and rounded.calls == []


def test_a_call_that_wants_gradients_stays_exact(wan, rounded):
    """Also in a pass that began without."""
    hook, q = pack_module("nodes.hook.override"), torch.randn(1, 4, 8, requires_grad=True)
    forward = SimpleNamespace(stays_exact=False)
    with torch.enable_grad():
        assert hook._stays_exact(forward, q, q, q)
    with torch.no_grad():
        assert not hook._stays_exact(forward, q, q, q)


@pytest.mark.parametrize("where", ["flag", "node", "asked for"])
def test_under_torch_compile(wan, rounded, sage, summaries, monkeypatch, request, where):
    torch._dynamo.reset()
    settings = {"precision": "8 bit"} if where == "asked for" else {}
    if where == "flag":
        request.getfixturevalue("use_sage")
    if where == "node":
        wan = with_override(wan, patch_sage_kj(sage))
    plain = sample(patch(wan, **settings, **DENSE))
    model = patch(wan, **settings, **DENSE)
    model = TorchCompileModel.execute(model, lambda graph, _, **options: graph).args[0]
    assert difference(sample(model), plain) < 1e-5
    assert ran(summaries, 0) == ran(summaries, 1) == ("8 bit", "8 bit")
    torch._dynamo.reset()


def test_the_texts_tell_both_precisions_where_any_is_8_bit(wan, rounded, summaries):
    model = patch(wan, precision="8 bit", dense_attention="comfyui", **DENSE)
    sample(model)
    assert "8 bit (rounded)" in summaries[0]["status"]
    assert "dense (exact): " in summaries[0]["status"]
    assert "Dense, exact: " in report(model)
    sample(patch(wan, **DENSE))
    assert "exact (sdpa)" in summaries[1]["status"] and "dense: " in summaries[1]["status"]
