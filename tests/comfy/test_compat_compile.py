"""The patch together with other nodes, under TorchCompileModel."""

import comfy.hooks
import comfy.ldm.wan.model
import pytest
import torch._dynamo
from comfy.ldm.modules.attention import attention_pytorch
from comfy_extras.nodes_context_windows import ContextWindowsManualNode
from comfy_extras.nodes_easycache import EasyCacheNode
from comfy_extras.nodes_torch_compile import TorchCompileModel
from conftest import difference, lora, patch, prompt, sample, with_blocks

BLOCKS = 2


@pytest.fixture(scope="module")
def wan(wan_weights):
    return with_blocks(BLOCKS, *wan_weights)


@pytest.fixture(autouse=True)
def no_graphs(monkeypatch):
    # The default on a GPU. The one for CPUs asks how much memory is free, which breaks graphs.
    monkeypatch.setattr(comfy.ldm.wan.model, "optimized_attention", attention_pytorch)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def windows(model):
    settings = (5, 0, "batched", 1, False, "flat", 2, False)
    return ContextWindowsManualNode.execute(model, *settings).args[0]


def cached(model):
    return EasyCacheNode.execute(model, 3.0, 0.0, 1.0, False).args[0]


def with_hooks(seed):
    hooks = comfy.hooks.create_hook_lora(lora(seed), 1.0, 0.0)
    return comfy.hooks.set_hooks_for_conditioning(prompt(seed), hooks)


@pytest.mark.parametrize(
    "other_node, compile_first, case",
    [
        pytest.param(windows, False, {"frames": 12}, marks=pytest.mark.slow),
        (cached, True, {"steps": 4}),
        (lambda model: model, False, {"positive": [*with_hooks(3), *with_hooks(4)]}),
    ],
    ids=["context windows", "skipped passes", "LoRAs of two prompts"],
)
def test_under_torch_compile(wan, summaries, other_node, compile_first, case):
    def compiled(model):
        return TorchCompileModel.execute(model, "eager").args[0]

    settings = {"dense_steps": 1, "dense_blocks": 1}
    plain = sample(other_node(patch(wan, **settings)), **case)
    if compile_first:
        model = patch(other_node(compiled(wan)), **settings)
    else:
        model = other_node(compiled(patch(wan, **settings)))
    assert difference(sample(model, **case), plain) < 1e-5
    assert summaries[0] == summaries[1] and summaries[0]["radial_calls"]
