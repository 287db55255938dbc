"""Helpers for tests with the probe."""

import torch
from conftest import pack_module

import nodes


def probe(model, steps="0", blocks="all", tokens=1024):
    """A model with Radial Attention Probe. By default it measures every token of a small video."""
    node = nodes.NODE_CLASS_MAPPINGS["RadialAttentionProbe"]
    return node.execute(model, steps, blocks, tokens).args[0]


def run_of(model):
    """The last run that a model's probe measured."""
    return model.get_attachment("radial_attention_probe").latest


def measured(model):
    """The measurements of the last run."""
    return run_of(model).measurements()


def places(model):
    """(step, block) of the measured calls of the last run."""
    return [(call.step, call.block) for call in measured(model).calls]


def by_halves(sparse, dense):
    """Outputs (1, rows, h, d) in float64, each half of the rows repaired by a fit to the other."""
    repair, result = pack_module("radial_core.adaptive.repair"), sparse.clone()
    pairs = (sparse.shape[1] + 1) // 2
    for head in range(sparse.shape[2]):
        for own, other in ((0, 1), (1, 0)):
            rows = 2 * repair.exact_rows(0, pairs, sparse.device) + other
            rows = rows[rows < sparse.shape[1]]
            found, full = sparse[0, rows, head], dense[0, rows, head]
            gram = found.T @ found
            gram += repair.RIDGE * gram.diagonal().diag()
            matrix = torch.linalg.solve(gram, found.T @ (full - found))
            result[0, own::2, head] += sparse[0, own::2, head] @ matrix
    return result
