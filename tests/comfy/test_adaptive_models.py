"""Adaptive lists on every family that we support: as the reference has them, and as dense."""

import pytest
import zoo
from adaptive import SETTINGS, oracle, times_looked
from conftest import difference, patch
from zoo import sample

pytestmark = pytest.mark.usefixtures("any_density")

# Besides one of each family: text on both sides, masked text, prompts of two lengths, blocks that
# are called twice, two videos.
MORE = ["wan vace, two contexts", "hunyuan padded prompts with holes"]
SLOW = [
    "scail",
    "hunyuan t2v with a negative prompt",
    "hunyuan 1.5 t2v",
    "mochi, both prompts in one pass",
    "cosmos predict2 i2v, two videos",
    "ltx-2 i2v with sound",
    "wan s2v",
]
CASES = [
    pytest.param(case, id=case.name, marks=[pytest.mark.slow] if case.name in SLOW else [])
    for case in zoo.CASES
    if case.typical or case.name in MORE + SLOW
]


@pytest.fixture(scope="module", params=CASES)
def specimen(request):
    case = request.param
    if not case.is_there:
        pytest.skip(f"not in this ComfyUI: {case.name}")
    return case, case.model(), case.inputs()


@pytest.mark.oldest
def test_each_call_has_the_lists_of_its_first_sparse_step(specimen, summaries):
    case, model, inputs = specimen
    by_reference, looks = oracle(model, around=case.around)
    truth = sample(by_reference, inputs, steps=3)
    ours = patch(model, **SETTINGS)
    assert difference(sample(ours, inputs, steps=3), truth) < 1e-4
    assert looks.steps == {1} and looks.all_differ()
    assert times_looked(ours) == [len(looks.found)]
    assert summaries[0]["radial_calls"] == looks.calls


def test_a_budget_for_everything_is_dense_attention(specimen, summaries):
    case, model, inputs = specimen
    kept = sample(patch(model, budget=10.0, **SETTINGS), inputs)
    assert difference(kept, sample(model, inputs)) < 1e-4
    assert summaries[0]["radial_calls"] == summaries[0]["model_calls"] // 2 * sum(case.calls)
    assert summaries[0]["density"] == 1
