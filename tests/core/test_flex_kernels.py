"""How often flex compiles: once for each shape, however many plans there are."""

from functools import partial

import pytest
import torch

from radial_core import RadialPattern, VideoLayout, make_plan
from radial_core.backends import flex
from radial_core.plan import PLANS_KEPT, _cached_plan

VIDEO = (9, 4, 8)
LENGTHS = range(40, 41 + PLANS_KEPT)  # of prompts: more than the plans that are cached


@pytest.fixture(autouse=True)
def no_kernels_yet():
    flex._kernel_for.cache_clear()
    yield
    flex._kernel_for.cache_clear()


@pytest.fixture
def compiled(monkeypatch):
    """The arguments of each compilation."""
    made = []
    monkeypatch.setattr(flex, "_compile", lambda *arguments: made.append(arguments) or object())
    return made


def plan_of(prompt=0, decay=0.2, block_size=64, video=VIDEO):
    return make_plan(RadialPattern(decay, 0, block_size), VideoLayout(*video, prefix=prompt))


def of_two_widths():
    return [plan_of(decay=decay, video=(12, 9, 15)) for decay in (0.1, 4.0)]


def kernel(plan, scale=0.1, lse=False, grad=True, **kind):
    q, k, v = torch.empty(3, 1, 2, plan.tokens, 16, **kind).unbind(0)
    return flex._kernel(plan, scale, lse, grad, False, q, k, v)


def test_each_prompt_length_is_compiled_once(compiled):
    first = [kernel(plan_of(prompt)) for prompt in LENGTHS]
    for _ in range(2):
        assert [kernel(plan_of(prompt)) for prompt in LENGTHS] == first
    assert len(compiled) == len(LENGTHS) == len(set(first))


def test_another_plan_of_the_same_shape_uses_the_same_kernel(compiled):
    plans = [plan_of(64, video=video) for video in (VIDEO, (9, 8, 4))]
    assert len({kernel(plan) for plan in plans}) == len(compiled) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"scale": 0.2},
        {"lse": True},
        {"grad": False},
        {"dtype": torch.float16},
        {"requires_grad": True},
        {"device": "meta"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_other_arguments_compile_another_kernel(compiled, other):
    assert kernel(plan_of()) is not kernel(plan_of(), **other)
    assert kernel(plan_of()) is kernel(plan_of()) and len(compiled) == 2


def test_tables_of_another_width_compile_another_kernel(compiled):
    narrow, wide = of_two_widths()
    assert narrow.tokens == wide.tokens and narrow.table[1].shape != wide.table[1].shape
    assert kernel(narrow) is not kernel(wide)


def test_the_number_of_kernels_is_bounded(compiled):
    plan = plan_of()
    for i in range(flex.KERNELS_KEPT + 10):
        kernel(plan, scale=i)
    assert flex._kernel_for.cache_info().currsize == flex.KERNELS_KEPT


def test_torch_compiles_once_for_each_kernel(monkeypatch):
    """Its guards must not recompile a function for another plan."""
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return lambda q, *rest: (q, q[..., 0])

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    for _ in range(2):
        for plan in of_two_widths():
            q, k, v = torch.empty(3, 1, plan.tokens, 1, 16).unbind(0)
            flex.run(q, k, v, plan, 0.3, True)
        _cached_plan.cache_clear()
    assert len(graphs) == 2
