"""The patch with other overrides on the attention hook."""

import comfy.ldm.wan.model
import pytest
from comfy.ldm.modules.attention import attention_pytorch
from comfy.patcher_extension import CallbacksMP
from conftest import BLOCKS, SLOT, difference, newest_only, patch, sample, with_override

SELF, CROSS = (540, 540), (540, 20)
EXACT = attention_pytorch.__wrapped__


class Sparse:
    """Another sparse attention, like the one that ComfyUI added after 0.30.

    It puts itself back on the hook at each step, before any other override, and takes
    self-attention without a mask. ComfyUI's runs only on a GPU; this one is exact.
    """

    def __init__(self, takes: bool):
        self.takes, self.took, self.ours = takes, 0, []

    def node(self, model):
        model = model.clone()
        self.install(model.model_options["transformer_options"])
        model.add_callback_with_key(
            CallbacksMP.ON_PREPARE_STATE,
            "sparse",
            lambda _model, _sigma, options: self.install(options["transformer_options"]),
        )
        return model

    def install(self, options):
        previous = options.get(SLOT)
        if previous in self.ours:
            return

        def override(func, q, k, v, heads, **kwargs):
            if self.takes and q.shape == k.shape and kwargs["mask"] is None:
                self.took += 1
                return EXACT(q, k, v, heads, **kwargs)
            if previous is None:
                return func(q, k, v, heads, **kwargs)
            return previous(func, q, k, v, heads, **kwargs)

        self.ours.append(override)
        options[SLOT] = override


@newest_only("its callbacks at each step get no options")
@pytest.mark.parametrize("takes", [True, False], ids=["takes calls", "declines"])
@pytest.mark.parametrize("order", ["before ours", "after ours"])
def test_another_sparse_attention(wan, summaries, order, takes):
    """Ours takes the calls it can, the other one those that we leave dense."""
    settings = {"dense_steps": 1, "dense_blocks": 1}
    sparse = Sparse(takes)
    if order == "before ours":
        model = patch(sparse.node(wan), **settings)
    else:
        model = sparse.node(patch(wan, **settings))
    video = sample(model, steps=3)
    assert difference(video, sample(patch(wan, **settings), steps=3)) < 1e-5
    assert summaries[0]["radial_calls"] == summaries[1]["radial_calls"] == 2 * (BLOCKS - 1)
    assert sparse.took == (BLOCKS + 2 if takes else 0)
    assert len(sparse.ours) <= 2


class Container:
    """Hands a tensor over once, so that it is not held longer than needed."""

    def __init__(self, tensor):
        self.tensor = tensor

    def take(self):
        tensor, self.tensor = self.tensor, None
        return tensor


@pytest.fixture
def newer_hook(monkeypatch):
    """Attention as it calls the hook after 0.30: q, k and v come in containers.

    An override with a `container_function` gets the containers; any other gets tensors.
    """

    def attention(q, k, v, *args, **kwargs):
        q, k, v = (Container(x) for x in (q, k, v))
        override = kwargs["transformer_options"].get(SLOT)
        kwargs["_inside_attn_wrapper"] = True
        if hasattr(override, "container_function"):
            return override.container_function(q, k, v, *args, **kwargs)
        q, k, v = (x.take() for x in (q, k, v))
        if override is not None:
            return override(EXACT, q, k, v, *args, **kwargs)
        return EXACT(q, k, v, *args, **kwargs)

    monkeypatch.setattr(comfy.ldm.wan.model, "optimized_attention", attention)


def with_container_override(model):
    """A model with an override that also takes containers, and the list of its calls."""
    calls = []

    def override(func, q, k, v, heads, **kwargs):
        calls.append((q.shape[1], k.shape[1]))
        return EXACT(q, k, v, heads, **kwargs)

    def container_function(q, k, v, heads, **kwargs):
        return override(None, q.take(), k.take(), v.take(), heads, **kwargs)

    override.container_function = container_function
    return with_override(model, override), calls


def test_the_hook_of_newer_comfyuis(wan, newer_hook, check):
    check(wan)


@pytest.mark.parametrize("order", ["before ours", "after ours"])
def test_an_attention_that_takes_containers(wan, newer_hook, summaries, order):
    """It gets the calls that we leave dense, as tensors, since we opened the containers."""
    settings = {"dense_steps": 1}
    if order == "before ours":
        model, calls = with_container_override(wan)
        model = patch(model, **settings)
    else:
        model, calls = with_container_override(patch(wan, **settings))
    assert difference(sample(model), sample(patch(wan, **settings))) < 1e-5
    assert summaries[0]["dense_calls"] == summaries[1]["dense_calls"]
    assert summaries[0]["radial_calls"] == summaries[1]["radial_calls"] == BLOCKS
    assert calls.count(SELF) == BLOCKS and calls.count(CROSS) == 2 * BLOCKS
