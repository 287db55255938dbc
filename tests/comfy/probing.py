"""The probe and what belongs to it, as ComfyUI loaded them, for tests."""

import nodes


def probe(model, steps="0", blocks="all", tokens=1024):
    """Radial Attention Probe, run on a model. Every token of a small video is measured."""
    node = nodes.NODE_CLASS_MAPPINGS["RadialAttentionProbe"]
    return node.execute(model, steps, blocks, tokens).args[0]


def run_of(model):
    """What the probe of a model found in its last run."""
    return model.get_attachment("radial_attention_probe").latest


def measured(model):
    """The measurements of the last run."""
    return run_of(model).measurements()


def places(model):
    """(step, block) of the measured calls of the last run."""
    return [(call.step, call.block) for call in measured(model).calls]
