"""The settings that the passes of a run have: resolved once, not at each pass."""

import logging
from collections.abc import Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

from ...radial_core import RadialPattern, Schedule
from ..families.registry import preset_of
from ..inputs.settings import QUARTER, Settings, runs_all
from ..run.run_reporter import RunReporter


class Resolved(NamedTuple):
    """preset: its name, if any value is the preset's."""

    pattern: RadialPattern
    schedule: Schedule
    preset: str | None


class RunSettings:
    """Keeps what settings come to, for each model, length and schedule in a run.

    A run may have several: context windows of two lengths, a model's copies on other GPUs.
    """

    def __init__(self, settings: Settings, reporter: RunReporter):
        self._settings, self._reporter = settings, reporter
        self._resolved = WeakKeyDictionary()  # model -> {(frames, noise levels): Resolved}

    def resolve(self, base, frames: int, sigmas: Sequence[float] | None) -> Resolved:
        """base: ComfyUI's BaseModel. frames: latent ones. sigmas: the sampler's noise levels."""
        of_model = self._resolved.setdefault(base, {})
        key = frames, None if sigmas is None else tuple(sigmas)
        if key not in of_model:
            quarter = self._quarter(base)
            preset = preset_of(base.diffusion_model, runs_all(sigmas, quarter))
            pattern, schedule = self._settings.resolve(preset, frames, sigmas, quarter)
            name = preset.name if self._settings.automatic else None
            of_model[key] = Resolved(pattern, schedule, name)
        return of_model[key]

    def _quarter(self, base) -> float:
        """The noise level a quarter down the model's schedule; 0 if it isn't needed or known."""
        if not self._settings.automatic:
            return 0.0
        try:
            return float(base.model_sampling.percent_to_sigma(QUARTER))
        except Exception as error:
            message = "No noise schedule to go by: %s"
            self._reporter.say_once("quarter", logging.INFO, message, error)
            return 0.0
