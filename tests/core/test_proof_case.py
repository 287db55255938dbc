"""The case on which backends are proven: it needs little memory and covers the hard cases."""

from itertools import accumulate

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from radial_core import RadialPattern, make_plan, proof
from radial_core.backends import sdpa
from radial_core.backends.contract import EXACT
from radial_core.call import Call
from radial_core.proof import LAYOUT
from radial_core.reference import reference_attention

MOST_MIB = 64  # it runs during a pass, when memory is short


def peak_mib(do):
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        do()
    events = profiler.profiler.kineto_results.events()
    steps = (event.nbytes() for event in events if event.name() == "[memory]")
    return max(accumulate(steps)) / 2**20


def test_it_needs_little_memory():
    call = Call(torch.device("cpu"), torch.bfloat16, 128, 128)
    assert peak_mib(lambda: proof.fault_of(sdpa.run, call, EXACT)) < MOST_MIB


@pytest.mark.parametrize("block_size", [64, 128])
def test_it_covers_the_hard_cases(block_size):
    begin, end = LAYOUT.prefix, LAYOUT.prefix + LAYOUT.video_tokens
    for place in (begin, end, LAYOUT.tokens, LAYOUT.tokens_per_frame):
        assert place % block_size
    assert LAYOUT.tokens % 8  # the tail does not fill a vector either
    plan = make_plan(RadialPattern(proof.DECAY, 1, block_size), LAYOUT)
    assert plan.density < 0.8 and plan.blocks > 8
    kept = plan.block_mask().int()
    runs = kept[:, 0] + (kept.diff(dim=1) == 1).sum(dim=1)
    assert (runs > 1).any()  # lists with gaps
    q, k, v = torch.randn(3, 1, LAYOUT.tokens, 1, 64).unbind(0)
    truth = reference_attention(q, k, v, plan)
    dense = reference_attention(q, k, v, make_plan(RadialPattern(1.0, LAYOUT.frames), LAYOUT))
    assert (dense - truth).norm() > 0.4 * truth.norm()


@pytest.mark.parametrize("block_size", [64, 128])
def test_with_lists_per_head_no_head_can_take_the_others(block_size):
    call = Call(torch.device("cpu"), torch.float64, 64, block_size, per_head=True)
    plan = make_plan(proof._mask(call), LAYOUT)
    q, k, v, _ = proof._draw(call)
    assert plan.lists == q.shape[2] and plan.density < 0.9
    truth = reference_attention(q, k, v, plan)
    swapped = reference_attention(*(x.flip(2) for x in (q, k, v)), plan).flip(2)
    for head in range(plan.lists):
        assert (swapped - truth)[:, :, head].norm() > 0.1 * truth[:, :, head].norm()
    assert proof.fault_of(sdpa.run, call, EXACT) is None


def test_it_is_the_same_case_each_time():
    call = Call(torch.device("cpu"), torch.bfloat16, 64, 64)
    for first, again in zip(proof._draw(call), proof._draw(call), strict=True):
        assert torch.equal(first, again)
