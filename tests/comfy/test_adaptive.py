"""Adaptive lists in ComfyUI's sampler: found once for each branch, video and block, and used."""

import pytest
import torch
from conftest import EVERYTHING, difference, pack_module, patch, sample, with_override

pytestmark = pytest.mark.usefixtures("any_density")

SETTINGS = {"dense_steps": 1, "lists": "adaptive"}


def oracle(model, budget=1.0, first_step=1):
    """A model that has adaptive lists by the reference, without our hook, and its looks.

    A look is the branch, the number of the video, and the block that it is for.
    """
    core, reference = pack_module("radial_core"), pack_module("radial_core.reference")
    lists = pack_module("radial_core.adaptive.lists")
    pattern, found = core.RadialPattern(0.2, 1, 64), {}

    def override(func, q, k, v, heads, *args, **kwargs):
        options = kwargs["transformer_options"]
        grid = tuple(int(n) for n in options["grid_sizes"])
        plan = core.make_plan(pattern, core.VideoLayout(*grid))
        sigmas = options["sample_sigmas"].tolist()
        step = sigmas.index(options["sigmas"][0].item())
        if k.shape[1] != plan.tokens or step < first_step:
            return func(q, k, v, heads, *args, **kwargs)
        q, k, v = (x.unflatten(-1, (heads, -1)) for x in (q, k, v))
        branches, out = options["cond_or_uncond"], []
        videos = len(q) // len(branches)
        for i in range(len(q)):
            key = branches[i // videos], i % videos, options["block_index"]
            if key not in found:
                found[key] = lists.look(q[i], k[i], plan, budget).plan()
            one = (x[i : i + 1] for x in (q, k, v))
            out.append(reference.reference_attention(*one, found[key]))
        return torch.cat(out).to(q.dtype).flatten(2)

    return with_override(model, override), found


@pytest.mark.parametrize("budget", [1.0, 0.6])
@pytest.mark.parametrize("case", [{}, {"batch": 2}, {"cfg": 1.0}], ids=str)
def test_each_branch_and_video_has_the_lists_of_its_first_sparse_step(wan, summaries, case, budget):
    by_reference, found = oracle(wan, budget)
    truth = sample(by_reference, steps=4, **case)
    ours = sample(patch(wan, budget=budget, **SETTINGS), steps=4, **case)
    assert difference(ours, truth) < 1e-4
    assert len(found) == 3 * case.get("batch", 1) * (1 if case.get("cfg") else 2)
    assert difference(sample(patch(wan, dense_steps=1), steps=4, **case), truth) > 1e-3


def test_a_budget_that_keeps_everything_is_dense_attention(wan):
    plain = sample(wan, steps=3)
    assert difference(sample(patch(wan, budget=10.0, **SETTINGS), steps=3), plain) < 1e-5
    kept = patch(wan, **{**SETTINGS, **EVERYTHING})
    assert difference(sample(kept, steps=3), plain) < 1e-5


def test_without_a_dense_step_it_is_radial(wan):
    radial = sample(patch(wan), steps=3)
    adaptive = sample(patch(wan, lists="adaptive"), steps=3)
    assert difference(adaptive, radial) == 0
