"""Every model of the zoo under torch.compile: only its blocks, and the whole model."""

import pytest
import torch
import zoo
from comfy_api.torch_helpers import set_torch_compile_wrapper
from conftest import difference, pack_module, patch
from zoo import sample

pytestmark = [pytest.mark.usefixtures("any_density"), pytest.mark.oldest]

family_of = pack_module("nodes.families.registry").family_of


def with_blocks_compiled(model):
    """As KJNodes' compile nodes do by default, through ComfyUI's own wrapper."""
    net = model.get_model_object("diffusion_model")
    names = [each.name for each in family_of(net).block_lists]
    lists = {name: getattr(net, name) for name in names if hasattr(net, name)}
    keys = [f"diffusion_model.{name}.{i}" for name, each in lists.items() for i in range(len(each))]
    return compiled(model, keys)


def whole_model_compiled(model):
    return compiled(model, ["diffusion_model"])


def compiled(model, keys):
    model = model.clone()
    set_torch_compile_wrapper(model, "eager", keys=keys)
    return model


# Besides the typical ones, for each kind of block and each way to tell the blocks apart; the others
# are slow.
QUICK = ("wan vace, two contexts", "hunyuan padded prompt", "hunyuan 1.5 t2v")


def every_case():
    """The cases that this ComfyUI has."""
    return [
        pytest.param(
            case, id=case.name, marks=() if case.typical or case.name in QUICK else pytest.mark.slow
        )
        for case in zoo.CASES
        if case.is_there
    ]


@pytest.mark.parametrize("case", every_case())
def test_compiled_models_compute_the_same_as_eager_ones(case, summaries):
    model, inputs = case.model(), case.inputs()
    settings = {"dense_blocks": len(case.calls) - 1}  # so that the index of a block matters
    expected = sample(patch(model, **settings), inputs, steps=1)
    (eager,) = summaries
    assert eager["radial_calls"]
    for both in (
        with_blocks_compiled(patch(model, **settings)),
        patch(whole_model_compiled(model), **settings),
    ):
        torch._dynamo.reset()
        out = sample(both, inputs, steps=1)
        assert difference(out, expected) < 1e-5
        for counted in ("radial_calls", "dense_calls"):
            assert summaries[-1][counted] == eager[counted]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hunyuan t2v", "wan vace, two contexts", "mochi"])
def test_in_the_other_order(name, summaries):
    case = next(case for case in zoo.CASES if case.name == name)
    model, inputs, settings = case.model(), case.inputs(), {"dense_blocks": 1}
    for compile_it in (with_blocks_compiled, whole_model_compiled):
        torch._dynamo.reset()
        sample(compile_it(patch(model, **settings)), inputs, steps=1)
        sample(patch(compile_it(model), **settings), inputs, steps=1)
    assert all(summary == summaries[0] for summary in summaries)
