"""Helpers for tests with the probe."""

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
