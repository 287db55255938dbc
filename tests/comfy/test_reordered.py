"""The patch with packs that reorder the video's tokens around the transformer blocks."""

import pytest
import torch
from conftest import BLOCKS, EVERYTHING, SLOT, difference, patch, sample

FLAG = "sol_morton"


@pytest.fixture
def reorder(wan):
    """A node like Sol-Attn's with `morton`: model, whether it is on -> model.

    Hooks on the blocks put tokens and their rope into another order before the first block, and
    back behind the last. They stay on the model, and act where transformer_options has the flag.
    Its override takes the video's self-attention; this one is exact, and counts the calls.
    """
    blocks, handles, state = wan.model.diffusion_model.blocks, [], {}

    def before(block, args, kwargs):
        if not kwargs["transformer_options"].get(FLAG):
            return None
        if block is blocks[0]:
            order = torch.randperm(args[0].shape[1], generator=torch.Generator().manual_seed(3))
            state.update(order=order, freqs=kwargs["freqs"][:, order])
            args = (args[0][:, order], *args[1:])
        return args, {**kwargs, "freqs": state["freqs"]}

    def after(block, args, kwargs, output):
        if kwargs["transformer_options"].get(FLAG):
            return output[:, state["order"].argsort()]
        return None

    for block in blocks:
        handles.append(block.register_forward_pre_hook(before, with_kwargs=True))
    handles.append(blocks[-1].register_forward_hook(after, with_kwargs=True))

    def node(model, is_on=True):
        model = model.clone()
        options = model.model_options["transformer_options"]
        previous = options.get(SLOT)

        def override(func, q, k, v, heads, **kwargs):
            node.calls += q.shape == k.shape
            if previous is not None:
                return previous(func, q, k, v, heads, **kwargs)
            return func(q, k, v, heads, **kwargs)

        options |= {SLOT: override, FLAG: is_on}
        return model

    node.calls = 0
    yield node
    for handle in handles:
        handle.remove()


ORDERS = {
    "before ours": lambda reorder, model, **settings: patch(reorder(model), **settings),
    "after ours": lambda reorder, model, **settings: reorder(patch(model, **settings)),
}


@pytest.mark.parametrize("order", ORDERS)
def test_no_call_is_radial(wan, summaries, any_density, reorder, order):
    plain = sample(wan)
    assert difference(sample(reorder(wan)), plain) < 1e-5  # neutral to dense attention
    reorder.calls = 0
    out = sample(ORDERS[order](reorder, wan))
    assert difference(out, plain) < 1e-5
    (summary,) = summaries
    assert summary["radial_calls"] == 0
    assert reorder.calls == BLOCKS * summary["model_calls"]  # the other node's to take
    assert "Sol-Attn's morton option" in summary["text"]


@pytest.mark.parametrize("order", ORDERS)
def test_as_ever_where_the_option_is_off(wan, summaries, any_density, reorder, order):
    radial = sample(patch(wan))
    off = ORDERS[order](lambda model: reorder(model, is_on=False), wan)
    assert torch.equal(sample(off), radial)
    assert summaries[0]["radial_calls"] == summaries[1]["radial_calls"] > 0
    assert difference(sample(patch(wan, **EVERYTHING)), radial) > 1e-4
