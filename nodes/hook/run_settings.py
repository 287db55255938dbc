"""The settings that the passes of a run have: resolved once, not at each pass."""

import logging
from collections.abc import Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

from ...radial_core import RadialPattern, Schedule
from ...radial_core.noise_levels import even_levels, is_whole, noise_levels, without_jump
from ..families.registry import preset_of
from ..inputs.settings import Settings
from ..run.run_reporter import RunReporter


class Resolved(NamedTuple):
    """settings_of: whose they are, if any value is the model's own. levels: the sampler's, without
    a jump.

    why_radial: why lists can't be adaptive, though that is asked for; None if they can. settled:
    the step from which on adaptive lists stay. early: the budget of those found before it; None if
    it is no other, or no sparse step comes before.
    """

    pattern: RadialPattern
    schedule: Schedule
    settings_of: str | None
    levels: list[float] | None
    why_radial: str | None
    settled: int
    early: float | None


class RunSettings:
    """Keeps what settings come to, for each model, length and schedule in a run.

    A run may have several: context windows of two lengths, a model's copies on other GPUs.
    """

    def __init__(self, settings: Settings, reporter: RunReporter):
        self._settings, self._reporter = settings, reporter
        self._resolved = WeakKeyDictionary()  # model -> {(frames, sigmas): Resolved}

    def resolve(self, base, frames: int, sigmas: Sequence[float] | None) -> Resolved:
        """base: ComfyUI's BaseModel. frames: latent ones. sigmas: the sampler's."""
        of_model = self._resolved.setdefault(base, {})
        key = frames, None if sigmas is None else tuple(sigmas)
        if key not in of_model:
            levels = self._levels(base, sigmas)
            preset = preset_of(base.diffusion_model, is_whole(levels))
            pattern, schedule = self._settings.resolve(preset, frames, levels)
            name = preset.name if self._settings.automatic else None
            why_radial = self._settings.why_radial(schedule, levels)
            settled, early = self._settings.early_lists(schedule, levels)
            of_model[key] = Resolved(pattern, schedule, name, levels, why_radial, settled, early)
        return of_model[key]

    def _levels(self, base, sigmas: Sequence[float] | None) -> list[float] | None:
        """Those of a whole run if the model's schedule is not known."""
        try:
            return without_jump(noise_levels(sigmas, base.model_sampling.percent_to_sigma))
        except Exception as error:
            message = "No noise schedule to go by: %s"
            self._reporter.say_once("levels", logging.INFO, message, error)
            return even_levels(sigmas)
