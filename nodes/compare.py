"""Radial Attention Compare: what the probe found in the last run, as a picture and in words."""

import logging

from comfy_api.latest import io
from PIL import Image

from ..radial_core.measurements import Measurements
from .comfyui.node_ui import shown
from .drawing.canvas import as_image
from .drawing.compare import draw_compare, draw_nothing
from .inputs.checks import check_latent, check_model
from .probing.advice import findings
from .probing.hook import probe_of
from .probing.probe_run import ProbeRun
from .probing.socket import MEASUREMENTS

log = logging.getLogger("radial_attention")


class RadialAttentionCompare(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="RadialAttentionCompare",
            display_name="Radial Attention Compare",
            category="radial attention",
            description="Shows what Radial Attention Probe measured in the last run: the error "
            "that each setting makes against the time it takes, block by block and step by step, "
            "and what to change. Put it between the sampler and the decoder.",
            search_aliases=[
                "radial",
                "attention error",
                "energy coverage",
                "quality against speed",
                "measure attention",
            ],
            inputs=[
                io.Latent.Input(
                    "samples",
                    tooltip="What the sampler made of the model with the probe. It is passed on as "
                    "it is.",
                ),
                io.Model.Input(
                    "model",
                    tooltip="The model behind Radial Attention Probe: the one that the sampler "
                    "got.",
                ),
            ],
            outputs=[
                io.Latent.Output(display_name="samples", tooltip="The samples as they came."),
                io.Image.Output(display_name="image", tooltip="The picture on this node."),
                io.String.Output(display_name="text", tooltip="The words on this node."),
                MEASUREMENTS.Output(
                    display_name="measurements",
                    tooltip="All that was measured, for Radial Settings Search.",
                ),
                io.String.Output(
                    display_name="json", tooltip="All that was measured, for a file or a script."
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, samples, model) -> io.NodeOutput:
        check_latent(samples, "samples")
        check_model(model)
        probe = probe_of(model)
        try:
            run = None if probe is None else probe.latest
            measurements = None if run is None else run.measurements()
            if measurements is None:
                text = nothing(probe is not None, run)
                picture, data = draw_nothing("Nothing measured: see below."), "{}"
            else:
                text, data = findings(measurements), measurements.as_json()
                picture = _drawn(measurements)
        except Exception as error:  # the samples must not be lost for it
            log.exception("Radial Attention Compare failed")
            measurements, data = None, "{}"
            text = f"Failed, see the log. {type(error).__name__}: {error}"
            picture = draw_nothing("Failed: see below.")
        image = as_image(picture)
        return io.NodeOutput(samples, image, text, measurements, data, ui=shown(image, text, cls))


def _drawn(measurements: Measurements) -> Image.Image:
    """The picture, which must not cost the measurements."""
    try:
        return draw_compare(measurements)
    except Exception as error:
        log.exception("Radial Attention Compare has no picture")
        return draw_nothing(f"No picture. {type(error).__name__}: {error}")


def nothing(has_probe: bool, run: ProbeRun | None) -> str:
    """Why there are no measurements, and what to do."""
    if not has_probe:
        return (
            "This model did not go through Radial Attention Probe. Put that node between the "
            "loader and the sampler, and link the model from it to the sampler and to this node."
        )
    if run is None:
        return (
            "The model behind Radial Attention Probe has not run. Link it to the sampler that the "
            "samples come from."
        )
    if run.steps is None:
        return "The probe found no steps in this run: it measures only where a sampler runs."
    if not run.seen:
        return (
            f"The sampler made {run.steps} steps, and none of those that the probe was to measure. "
            "Steps count from 0; shares like 50% fit any number."
        )
    if run.reasons:
        reasons = "; ".join(f"{why} ({number})" for why, number in run.reasons.most_common())
        return f"Nothing was measured in this run: {reasons}."
    return (
        "No self-attention over a video came by the probe. The blocks to measure count from 0, and "
        "all fits any model. A node that compiles the model may keep its attention from the probe."
    )
