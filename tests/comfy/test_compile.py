"""Under ComfyUI's TorchCompileModel: one graph for all steps, with a new decision in each step."""

import shutil
from contextlib import contextmanager

import comfy.ldm.wan.model
import pytest
import torch
import torch._dynamo
from adaptive import times_looked
from comfy.ldm.modules.attention import attention_pytorch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras import nodes_train
from comfy_extras.nodes_torch_compile import TorchCompileModel, skip_torch_compile_dict
from conftest import (
    ask_the_hook,
    difference,
    pack_module,
    patch,
    sample,
    with_blocks,
    with_override,
)
from torch._dynamo.backends.common import aot_autograd

SETTINGS = {"dense_steps": 1, "dense_last_steps": 1, "dense_blocks": 1}
STEPS = 4
BLOCKS = 2  # tracing them takes most of the time

pytestmark = pytest.mark.oldest


@pytest.fixture(scope="module")
def wan(wan_weights):
    return with_blocks(BLOCKS, *wan_weights)


@pytest.fixture(scope="module")
def one_block(wan_weights):
    return with_blocks(1, *wan_weights)


@pytest.fixture
def graphs(monkeypatch):
    """A torch.compile backend that runs graphs unchanged and lists them."""
    # The default on a GPU. The one for CPUs asks how much memory is free, which breaks graphs.
    monkeypatch.setattr(comfy.ldm.wan.model, "optimized_attention", attention_pytorch)

    class Graphs(list):
        def __call__(self, graph, _example, **_options):
            self.append(graph)
            return graph.forward

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield Graphs()
    torch._dynamo.reset()


def graph_breaks():
    return sum(torch._dynamo.utils.counters["graph_break"].values())


def compiled(model, backend):
    return TorchCompileModel.execute(model, backend).args[0]


def in_order(order, model, backend, **settings):
    if order == "patched, then compiled":
        return compiled(patch(model, **settings), backend)
    return patch(compiled(model, backend), **settings)


ORDERS = pytest.mark.parametrize("order", ["patched, then compiled", "compiled, then patched"])


@ORDERS
def test_one_graph_for_every_step_and_both_conditionings(wan, graphs, summaries, order):
    plain = sample(patch(wan, **SETTINGS), steps=STEPS)
    model = in_order(order, wan, graphs, **SETTINGS)
    assert difference(sample(model, steps=STEPS), plain) < 1e-6
    assert (len(graphs), graph_breaks()) == (1, 0)
    assert difference(plain, sample(wan, steps=STEPS)) > 1e-3
    assert summaries[0] == summaries[1]
    assert summaries[0]["radial_calls"] == 2 * (BLOCKS - 1)

    sample(model, steps=STEPS + 3, seed=3)  # another schedule
    assert len(graphs) == 1
    assert summaries[2]["radial_calls"] == 5 * (BLOCKS - 1)


def test_conditionings_in_separate_passes(wan, graphs, summaries, monkeypatch):
    """As when memory is short: cond, then uncond."""
    monkeypatch.setattr(type(wan), "get_free_memory", lambda *args: 0)
    plain = sample(patch(wan, **SETTINGS), steps=STEPS)
    assert summaries[0]["model_calls"] == 2 * STEPS
    model = compiled(patch(wan, **SETTINGS), graphs)
    assert difference(sample(model, steps=STEPS), plain) < 1e-6
    assert (len(graphs), graph_breaks()) == (1, 0)
    assert summaries[0] == summaries[1]


def test_settings_are_not_baked_into_the_graph(wan, graphs, summaries):
    """One compiled model, with the patch and without it, as in a comparison."""
    model, dense = compiled(wan, graphs), sample(wan)
    assert difference(sample(model), dense) < 1e-6
    for settings in ({}, {"decay": 1.0}, {"dense_blocks": 1}):
        plain = sample(patch(wan, **settings))
        assert difference(sample(patch(model, **settings)), plain) < 1e-6
        assert difference(sample(model), dense) < 1e-6
        assert summaries[-2] == summaries[-1] and summaries[-1]["radial_calls"]
    assert (len(graphs), graph_breaks()) == (2, 0)


def test_another_prompt_and_another_size(one_block, graphs, summaries):
    model = compiled(patch(one_block), graphs)
    for case in ({}, {"text_tokens": 33}, {"text_tokens": 47}, {"frames": 13}):
        assert difference(sample(model, **case), sample(patch(one_block), **case)) < 1e-6
        assert summaries[-2] == summaries[-1]
    assert (len(graphs), graph_breaks()) == (3, 0)  # as many as without this node


@pytest.mark.parametrize("options", [{"guard_filter_fn": skip_torch_compile_dict}, None])
@ORDERS
def test_only_the_blocks_are_compiled(wan, graphs, summaries, options, order):
    """As some nodes do. The blocks then share graphs, but not their index."""
    settings = {"dense_steps": 1, "dense_blocks": 1}

    def with_compiled_blocks(model):
        model = model.clone()
        keys = [f"diffusion_model.blocks.{i}" for i in range(BLOCKS)]
        set_torch_compile_wrapper(model, graphs, options=options, keys=keys)
        return model

    plain = sample(patch(wan, **settings), steps=3)
    if order == "patched, then compiled":
        model = with_compiled_blocks(patch(wan, **settings))
    else:
        model = patch(with_compiled_blocks(wan), **settings)
    assert difference(sample(model, steps=3), plain) < 1e-6
    assert graph_breaks() == 0 and len(graphs) <= 2  # the first block's input has other strides
    assert summaries[0] == summaries[1]
    assert summaries[0]["dense_calls"]["dense block"] == 2
    assert summaries[0]["radial_calls"] == 2 * (BLOCKS - 1)


@pytest.mark.parametrize("keys", [None, range(BLOCKS)], ids=["whole", "blocks"])
def test_adaptive_lists(wan, graphs, summaries, any_density, keys):
    """Each block has its own, also where blocks share a graph."""
    settings = {"dense_steps": 1, "lists": "adaptive", "budget": 0.7}
    plain = patch(wan, **settings)
    expected = sample(plain, steps=3)
    model = patch(wan, **settings)
    if keys is None:
        model = compiled(model, graphs)
    else:
        names = [f"diffusion_model.blocks.{i}" for i in keys]
        set_torch_compile_wrapper(model, graphs, options=None, keys=names)
    assert difference(sample(model, steps=3), expected) < 1e-6
    assert graphs and graph_breaks() == 0
    assert times_looked(plain) == times_looked(model) == [2 * BLOCKS]
    assert [each["radial_calls"] for each in summaries] == [2 * BLOCKS] * 2


def test_a_decision_is_not_captured_in_a_cuda_graph():
    op = torch.ops.radial_attention.attention.default
    if hasattr(torch.Tag, "cudagraph_unsafe"):
        assert torch.Tag.cudagraph_unsafe in op.tags
    assert pack_module("nodes.hook.compiled_op").ON_THE_CPU.device.type == "cpu"


def test_another_override_gets_the_same_calls_as_in_eager_mode(wan, graphs, summaries):
    def watching(calls):
        def override(func, q, k, v, heads, **kwargs):
            options = kwargs.pop("transformer_options")
            sigma = float(options["sigmas"][0])
            grid, block = tuple(options["grid_sizes"]), options["block_index"]
            kwargs = {k: v for k, v in kwargs.items() if v is not None}
            calls.append((sigma, grid, block, options["total_blocks"], k.shape, heads, kwargs))
            return func(q, k, v, heads, **kwargs)

        return override

    eager, graph = [], []
    sample(patch(with_override(wan, watching(eager)), **SETTINGS), steps=STEPS)
    sample(compiled(patch(with_override(wan, watching(graph)), **SETTINGS), graphs), steps=STEPS)
    assert graph == eager
    assert {call[2] for call in graph} == set(range(BLOCKS))
    assert (len(graphs), graph_breaks()) == (1, 0)


def test_a_failing_kernel_does_not_spoil_the_render(wan, graphs, summaries, monkeypatch):
    def broken(*args, **options):
        raise RuntimeError("no nvcc")

    model, dense = compiled(patch(wan), graphs), sample(wan)
    monkeypatch.setattr(pack_module("nodes.hook.compute"), "attend", broken)
    assert torch.equal(sample(model), dense)
    assert summaries[0]["dense_calls"]["RuntimeError"] == BLOCKS * summaries[0]["model_calls"]
    monkeypatch.undo()
    monkeypatch.setattr(comfy.ldm.wan.model, "optimized_attention", attention_pytorch)
    sample(model)
    assert len(graphs) == 1  # and the next run is radial again, by the same graph


@pytest.mark.parametrize("skip_reshape", [False, True])
@pytest.mark.parametrize("through", ["dynamo", "aot_autograd"])
def test_gradients_flow_through_one_graph(wan, graphs, summaries, through, skip_reshape):
    def ask(ours, options):
        def loss(q, k, v):
            for _ in range(2):
                named = {"transformer_options": options, "skip_reshape": skip_reshape}
                out = ours(attention_pytorch.__wrapped__, q, k, v, 2, **named)
                q = q + (out.unflatten(2, (2, -1)).transpose(1, 2) if skip_reshape else out).sin()
            return q

        backend = aot_autograd(fw_compiler=graphs) if through == "aot_autograd" else graphs
        with torch.enable_grad():
            shape = (1, 2, 540, 128) if skip_reshape else (1, 540, 256)
            qkv = [torch.randn(shape).requires_grad_() for _ in range(3)]
            return [
                torch.autograd.grad(f(*qkv).sum(), qkv)
                for f in (loss, torch.compile(loss, backend=backend))
            ]

    eager, graph = ask_the_hook(wan, ask)
    assert all(difference(a, b) < 1e-5 for a, b in zip(graph, eager, strict=True))
    assert graph_breaks() == 0
    assert summaries[0]["radial_calls"] >= 4


@pytest.mark.parametrize("through", ["eager", "aot_eager"])
def test_under_autocast_as_in_training(wan, graphs, summaries, through):
    """On a GPU Wan's norms return q and k in float32, and the graph runs without autocast."""

    def ask(ours, options):
        def call(x, weight):
            v = torch.nn.functional.linear(x, weight)
            function = attention_pytorch.__wrapped__
            return ours(function, v.float(), 1.1 * v.float(), v, 2, transformer_options=options)

        results, weight = [], torch.randn(256, 256) / 16
        x = torch.randn(1, 540, 256).requires_grad_()
        for run in (call, torch.compile(call, backend=through)):
            with torch.enable_grad():
                with torch.autocast("cpu", torch.bfloat16):
                    out = run(x, weight)
                assert out.dtype == torch.bfloat16
                results.append((out.float(), *torch.autograd.grad(out.float().square().sum(), x)))
        return results

    eager, graph = ask_the_hook(wan, ask)
    assert all(difference(a, b) < 1e-5 for a, b in zip(graph, eager, strict=True))
    assert graph_breaks() == 0 and summaries[0]["radial_calls"] >= 2


def test_the_op_for_training_passes_torchs_own_check(wan, summaries):
    passes, ops = pack_module("nodes.hook.current_pass"), pack_module("nodes.hook.compiled_op")
    common = (2, None, False, None, "attention_pytorch", 1, 3, "double", [9, 6, 10])

    def ask(_ours, options):
        op, q = torch.ops.radial_attention.attention_in_training.default, torch.randn(1, 540, 256)
        with passes.in_pass(options["radial_attention"], options):
            # The number it returns differs in each run, so two runs are not compared.
            tests = ("test_schema", "test_faketensor")
            return torch.library.opcheck(op, (ops.ON_THE_CPU, q, q, q, *common), test_utils=tests)

    assert set(ask_the_hook(wan, ask).values()) == {"SUCCESS"}


def test_no_gradients_for_a_call_outside_a_pass():
    q, on_the_cpu = torch.randn(1, 40, 64), pack_module("nodes.hook.compiled_op").ON_THE_CPU
    arguments = (2, None, False, None, "attention_pytorch", None, None, None, None)
    with pytest.raises(RuntimeError, match="can't train this compiled model"):
        torch.ops.radial_attention.attention_in_training(on_the_cpu, q, q, q, *arguments)


@contextmanager
def checkpoints(model, depth):
    """Gradient checkpoints as in ComfyUI's Train LoRA."""
    parts = nodes_train.find_modules_at_depth(model.model.diffusion_model, depth)
    for part in parts:
        nodes_train.patch(part)
    try:
        yield
    finally:
        for part in parts:
            nodes_train.unpatch(part)


def gradient(model):
    """The gradient of one weight of a MODEL in one step of ComfyUI's training."""
    torch.manual_seed(0)
    latents, cond = torch.randn(1, 16, 9, 12, 20), torch.randn(1, 20, 16)
    weight = model.model.diffusion_model.patch_embedding.weight
    sampler = nodes_train.TrainSampler(
        torch.nn.functional.mse_loss,
        torch.optim.SGD([weight], lr=0.0),
        grad_acc=2,  # keeps the gradient of the only step
        total_steps=1,
        training_dtype=torch.float32,
    )
    guider = nodes_train.TrainGuider(model)
    guider.set_conds([[cond, {}]])
    weight.grad = None
    with torch.inference_mode(False), torch.enable_grad():
        weight.requires_grad_()
        guider.sample(torch.randn_like(latents), latents, sampler, torch.arange(1), seed=1)
        weight.requires_grad_(False)
    return weight.grad


@pytest.mark.parametrize("depth", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_gradients_are_right_with_checkpoints_which_break_the_graph(
    wan, graphs, summaries, monkeypatch, depth
):
    monkeypatch.setattr(comfy.model_management, "in_training", True)
    model = patch(wan, dense_blocks=1)
    eager = gradient(model)
    with checkpoints(wan, depth):
        assert difference(gradient(compiled(model, "aot_eager")), eager) < 1e-5
    without = compiled(model, graphs)
    assert difference(gradient(without), eager) < 1e-5
    with checkpoints(wan, depth):  # another graph, of the same model
        assert difference(gradient(without), eager) < 1e-5


@pytest.mark.slow
def test_a_torch_without_gradients_in_ops_trains_outside_the_graph(
    one_block, graphs, summaries, monkeypatch
):
    monkeypatch.setattr(comfy.model_management, "in_training", True)
    model = patch(one_block)
    eager = gradient(model)
    monkeypatch.setattr(pack_module("nodes.hook.compiled"), "outside_of_ops", None)
    assert difference(gradient(compiled(model, graphs)), eager) < 1e-5
    assert graph_breaks() > 0


def test_training_is_one_graph(wan, graphs, summaries, monkeypatch):
    """A training step in ComfyUI, with dense and radial blocks, has the same gradients."""
    monkeypatch.setattr(comfy.model_management, "in_training", True)
    model = patch(wan, dense_blocks=1)
    eager = gradient(model)
    assert difference(gradient(compiled(model, graphs)), eager) < 1e-5
    assert (len(graphs), graph_breaks()) == (1, 0)
    assert difference(gradient(wan), eager) > 1e-3
    eager_summary, compiled_summary = summaries
    assert eager_summary["radial_calls"] == BLOCKS - 1
    assert eager_summary["dense_calls"]["dense block"] == 1
    assert compiled_summary == eager_summary  # a call that runs again for gradients counts once
    assert not pack_module("nodes.hook.compiled_op")._calls  # freed when the run ended


def with_a_break(model):
    """With a patch in each block that breaks the graph, so that the blocks share their graphs."""
    model = model.clone()
    model.set_model_attn1_patch(torch.compiler.disable(lambda arguments: arguments["x"]))
    return model


@pytest.mark.parametrize("dense_blocks", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_blocks_are_told_apart_after_a_graph_break(wan, graphs, summaries, dense_blocks):
    settings, broken = {"dense_steps": 1, "dense_blocks": dense_blocks}, with_a_break(wan)
    plain = sample(patch(broken, **settings), steps=2)
    model = compiled(patch(broken, **settings), graphs)
    assert difference(sample(model, steps=2), plain) < 1e-6
    assert graph_breaks() > 0
    assert summaries[0]["radial_calls"] == BLOCKS - dense_blocks
    assert summaries[0]["dense_calls"] == summaries[1]["dense_calls"]


@pytest.mark.slow
def test_sizes_are_told_apart_after_a_graph_break(one_block, graphs, summaries):
    """Both have 540 tokens."""
    wide, broken = {"frames": 5, "height": 12, "width": 36}, with_a_break(one_block)
    model = compiled(patch(broken), graphs)
    sample(model)
    assert difference(sample(model, **wide), sample(patch(broken), **wide)) < 1e-6
    assert summaries[1]["density"] == summaries[2]["density"] != summaries[0]["density"]


@pytest.mark.slow
def test_a_graph_from_before_the_patch_is_reported(one_block, graphs, summaries, caplog):
    model = compiled(with_a_break(one_block), graphs)
    sample(model)
    caplog.set_level("WARNING", "radial_attention")
    sample(patch(model))
    if not summaries[0]["radial_calls"]:
        assert "no call reached this node" in summaries[0]["text"]
        assert any("no call reached this node" in r.getMessage() for r in caplog.records)


@pytest.mark.parametrize("skip_reshape", [False, True])
@pytest.mark.parametrize("skip_output_reshape", [False, True])
def test_every_layout_of_a_call(wan, graphs, summaries, skip_reshape, skip_output_reshape):
    q, k, v = torch.randn(3, 2, 540, 2, 128).unbind(0)
    given = [x.transpose(1, 2) if skip_reshape else x.flatten(2) for x in (q, k, v)]
    layout = {"skip_reshape": skip_reshape, "skip_output_reshape": skip_output_reshape}

    def ask(ours, options):
        function, passes = attention_pytorch.__wrapped__, pack_module("nodes.hook.current_pass")

        def call(q, k, v):
            return ours(function, q, k, v, 2, **layout, scale=0.3, transformer_options=options)

        with passes.in_pass(options["radial_attention"], options):
            return torch.compile(call, backend=graphs)(*given), call(*given)

    graph, eager = ask_the_hook(wan, ask)
    assert graph.shape == eager.shape and difference(graph, eager) < 1e-6
    assert (len(graphs), graph_breaks()) == (1, 0)
    assert summaries[0]["radial_calls"] >= 2


def test_the_op_passes_torchs_own_check():
    """Fake outputs like the real ones, and no input changed."""
    on_the_cpu = pack_module("nodes.hook.compiled_op").ON_THE_CPU
    q, k = torch.randn(2, 40, 64), torch.randn(2, 24, 64)
    common = (None, None, None, None)
    bhsd = q.unflatten(2, (2, 32)).transpose(1, 2)
    tests = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    for arguments in (
        (q, q, q, 2, None, False, None, "attention_pytorch", *common),
        (q, k, k, 2, None, False, 0.3, "attention_pytorch", 1, 3, "double", [2, 4, 5]),
        (bhsd, bhsd, bhsd, 2, torch.zeros(40, 40), True, None, "attention_pytorch", *common),
    ):
        op = torch.ops.radial_attention.attention.default
        torch.library.opcheck(op, (on_the_cpu, *arguments), test_utils=tests)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs a C++ compiler")
def test_by_inductor(wan, graphs, summaries):
    model = compiled(patch(wan, **SETTINGS), "inductor")
    assert difference(sample(model, steps=3), sample(patch(wan, **SETTINGS), steps=3)) < 1e-4
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1 and graph_breaks() == 0
    assert summaries[0] == summaries[1]
