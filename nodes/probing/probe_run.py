"""What the probe gathers in a run, and the settings that it measures."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from ...radial_core.measurements import Measurements
from ...radial_core.noise_levels import is_whole, noise_levels, without_jump
from ..comfyui.option_keys import KEY
from ..families.registry import preset_of, size_of
from ..inputs.settings import Settings

# Each call is measured for all of these, and for the current settings.
DECAYS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0)
SINKS = (0, 1, 2)
# Of adaptive lists, with the current settings. Presets end with a third.
BUDGETS = (1.0, 0.67, 0.5, 0.33)
DEFAULTS = Settings(  # of Radial Attention Patch
    dense_steps=None,
    dense_last_steps=1,
    dense_blocks=None,
    sink_frames=None,
    decay=None,
    block_size=128,
)


class ProbeRun:
    """What the probe measured in one run of a sampler."""

    def __init__(self):
        self.passes = 0
        self.steps = None  # of the sampler
        self.seen = set()  # steps of those to measure that came
        self.calls = {}  # (step, block) -> MeasuredCall
        self.reasons = Counter()  # why other calls were not measured
        self.about = {}  # the other fields of Measurements
        self.seconds = 0.0

    def measurements(self) -> Measurements | None:
        """None if nothing was measured."""
        if not self.calls:
            return None
        calls = tuple(self.calls[where] for where in sorted(self.calls))
        return Measurements(**self.about, steps=self.steps, calls=calls)


def about(base, options: dict, frames: int, sigmas: Sequence[float] | None) -> dict:
    """The fields of `Measurements` that a run has from its first pass on.

    The current settings are those of Radial Attention Patch, or what it would have by default.
    """
    patched = options.get(KEY)
    if patched is not None:
        pattern, schedule = patched.facts.pattern, patched.facts.schedule
        budget = None if patched.lists is None else patched.lists.budget
        whose = "Radial Attention Patch"
    else:
        levels = without_jump(noise_levels(sigmas, base.model_sampling.percent_to_sigma))
        preset = preset_of(base.diffusion_model, is_whole(levels))
        pattern, schedule = DEFAULTS.resolve(preset, frames, levels)
        budget = None
        whose = preset.name
    decays = sorted({*DECAYS, pattern.decay})
    sinks = sorted({*SINKS, pattern.sink_frames})
    patterns = tuple(replace(pattern, decay=d, sink_frames=s) for s in sinks for d in decays)
    budgets = sorted({*BUDGETS, *(() if budget is None else (budget,))}, reverse=True)
    size = size_of(base.diffusion_model)
    return {
        "size": size,
        "patterns": patterns,
        "current": patterns.index(pattern),
        "dense_blocks": min(schedule.dense_blocks, size.blocks),
        "settings_of": whose,
        "budgets": tuple(budgets),
        "budget": budget,
    }
