"""The patch with nodes that skip passes."""

import comfy.samplers
import pytest
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode
from conftest import BLOCKS, patch, sample, with_override

SELF, CROSS = (540, 540), (540, 20)


def caching(node):
    settings = {"reuse_threshold": 3.0, "start_percent": 0.0, "end_percent": 1.0, "verbose": False}
    return lambda model: node.execute(model, **settings).args[0]


CACHES = pytest.mark.parametrize("node", [EasyCacheNode, LazyCacheNode])


@CACHES
def test_skipped_passes(wan, check, node):
    summary, _ = check(wan, caching(node), steps=6)
    assert 0 < summary["radial_calls"] < 6 * BLOCKS


@CACHES
@pytest.mark.parametrize("order", ["before ours", "after ours"])
def test_dense_steps_where_passes_are_skipped(wan, summaries, node, order):
    """They are positions in the schedule, however many passes ran before."""
    calls, steps, settings = [], 8, {"dense_steps": 4, "dense_last_steps": 1}

    def override(func, q, k, v, heads, **kwargs):
        sigma = float(kwargs["transformer_options"]["sigmas"][0])
        calls.append((sigma, (q.shape[1], k.shape[1])))
        return func(q, k, v, heads, **kwargs)

    model = with_override(wan, override)  # gets what ours declines
    if order == "before ours":
        model = patch(caching(node)(model), **settings)
    else:
        model = caching(node)(patch(model, **settings))
    sample(model, steps=steps)
    sigmas = comfy.samplers.KSampler(wan, steps, wan.load_device, "euler", "simple").sigmas
    ran = [(sigma, CROSS) in calls for sigma in sigmas.tolist()[:steps]]
    dense = [(sigma, SELF) in calls for sigma in sigmas.tolist()[:steps]]
    assert False in ran[:4] and True in ran[4:7]
    assert dense == [ran[step] and (step < 4 or step == 7) for step in range(steps)]
    assert summaries[0]["radial_calls"] == BLOCKS * (sum(ran) - sum(dense))
