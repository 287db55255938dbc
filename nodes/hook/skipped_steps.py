"""Sees the steps for which the sampler asked, and the model was not called."""

import logging

from ...radial_core.schedule import step_of
from .override import RadialOverride


class SkippedSteps:
    """Wrapper of a guider's predict_noise (WrappersMP.PREDICT_NOISE), around those of other nodes.

    One of those may answer for the model, as LazyCache does: then no forward pass begins.
    """

    def __init__(self, override: RadialOverride):
        self.override = override

    def __call__(self, executor, x, timestep, *given, **named):
        record = self.override.reporter.record
        before = record.model_calls
        out = executor(x, timestep, *given, **named)
        if record.model_calls == before:
            self._skipped(timestep, given[0] if given else named.get("model_options"))
        return out

    def _skipped(self, timestep, model_options: dict | None) -> None:
        reporter, host_values = self.override.reporter, self.override.run.host_values
        try:
            sigmas = host_values.schedule((model_options or {}).get("transformer_options", {}))
            step = step_of(sigmas, host_values.sigma({"sigmas": timestep}))
            if step is not None:
                reporter.record.not_called(step)
        except Exception as error:  # the render goes on
            message = "Radial attention: the record of this run lacks skipped steps. %s"
            reporter.say_once("skipped steps", logging.WARNING, message, error, exc_info=True)
