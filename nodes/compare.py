"""Radial Attention Compare: what the probe measured in the last run, as a picture and text."""

import logging

from comfy_api.latest import io
from PIL import Image

from ..radial_core.measurements import Measurements
from .comfyui.node_ui import picture_and_text
from .drawing.canvas import as_image
from .drawing.compare import draw_compare, draw_nothing
from .inputs.checks import check_latent, check_model
from .probing.advice import advice
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
            description="Shows what Radial Attention Probe measured in the last run: the error of "
            "each setting against its time, the error of each block and step, and what to change. "
            "Put it between the sampler and the decoder.",
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
                    tooltip="The output of the sampler that used the model with the probe. It "
                    "passes through unchanged.",
                ),
                io.Model.Input(
                    "model",
                    tooltip="The output of Radial Attention Probe: the model that the sampler "
                    "used.",
                ),
            ],
            outputs=[
                io.Latent.Output(display_name="samples", tooltip="The samples, unchanged."),
                io.Image.Output(display_name="image", tooltip="The picture on this node."),
                io.String.Output(display_name="text", tooltip="The text on this node."),
                MEASUREMENTS.Output(
                    display_name="measurements",
                    tooltip="All measurements, for Radial Settings Search.",
                ),
                io.String.Output(
                    display_name="json", tooltip="All measurements, for a file or a script."
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
                text = why_nothing(probe is not None, run)
                picture, data = draw_nothing("Nothing measured: see below."), "{}"
            else:
                text, data = advice(measurements), measurements.as_json()
                picture = _draw(measurements)
        except Exception as error:  # the samples must not be lost
            log.exception("Radial Attention Compare failed")
            measurements, data = None, "{}"
            text = f"Failed, see the log. {type(error).__name__}: {error}"
            picture = draw_nothing("Failed: see below.")
        image = as_image(picture)
        on_node = picture_and_text(image, text, cls)
        return io.NodeOutput(samples, image, text, measurements, data, ui=on_node)


def _draw(measurements: Measurements) -> Image.Image:
    """The picture. If it fails, the measurements must not be lost."""
    try:
        return draw_compare(measurements)
    except Exception as error:
        log.exception("Radial Attention Compare has no picture")
        return draw_nothing(f"No picture. {type(error).__name__}: {error}")


def why_nothing(has_probe: bool, run: ProbeRun | None) -> str:
    """Why there are no measurements, and what to do."""
    if not has_probe:
        return (
            "This model did not go through Radial Attention Probe. Put that node between the "
            "loader and the sampler, and link the model from it to the sampler and to this node."
        )
    if run is None:
        return (
            "The model from Radial Attention Probe has not run. Link it to the sampler that makes "
            "these samples."
        )
    if run.steps is None:
        return "This run had no sampling steps. The probe measures only while a sampler runs."
    if not run.seen:
        return (
            f"The sampler made {run.steps} steps, none of which the probe was told to measure. "
            "Steps count from 0; shares like 50% fit any number of steps."
        )
    if run.reasons:
        reasons = "; ".join(f"{why} ({number})" for why, number in run.reasons.most_common())
        return f"Nothing was measured in this run: {reasons}."
    return (
        "The probe saw no self-attention over a video. The blocks to measure count from 0, and all "
        "fits any model. A node that compiles the model may hide its attention from the probe."
    )
