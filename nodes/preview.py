"""Radial Mask Preview: what is kept of a video and what that saves, before it is made."""

from comfy_api.latest import io

from ..radial_core.masks.radial import MAX_DECAY
from .comfyui.node_ui import picture_and_text
from .drawing.canvas import as_image
from .families.catalog import (
    VIDEO_MODELS,
    catalog_entry,
    typical_layout,
    why_no_catalog_entry,
)
from .families.node_texts import family_names, frames_per_latent_frame
from .families.registry import class_name, family_of
from .forecast.forecast import figures, forecast, picture
from .hook.attach import override_of
from .inputs.checks import (
    BLOCK_SIZE_CHOICES,
    check_choice,
    check_latent,
    check_model,
    check_number,
    why_not_block_size,
)
from .inputs.settings import AUTOMATIC, MOST, read_settings

LARGEST, LONGEST = 16_384, 100_000  # pixels to a side, frames


class RadialMaskPreview(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="RadialMaskPreview",
            display_name="Radial Mask Preview",
            category="radial attention",
            description="Shows which part of a video's attention Radial Attention computes, what "
            "it skips, and how much faster that is, before anything is rendered. It needs no "
            "model: choose one by name and try out the settings.",
            search_aliases=[
                "radial",
                "radial preview",
                "attention mask",
                "block map",
                "sparse attention",
                "speed estimate",
            ],
            inputs=[
                io.Combo.Input(
                    "model_type",
                    options=list(VIDEO_MODELS),
                    tooltip="The model that will make the video. A linked model takes its place. "
                    "But the two experts of Wan 2.2 look the same as Wan 2.1: for them, choose Wan "
                    "2.2 here as well.",
                ),
                io.Int.Input(
                    "width",
                    default=832,
                    min=16,
                    max=LARGEST,
                    step=16,
                    tooltip="Width of the video.",
                ),
                io.Int.Input(
                    "height",
                    default=480,
                    min=16,
                    max=LARGEST,
                    step=16,
                    tooltip="Height of the video.",
                ),
                io.Int.Input(
                    "length", default=81, min=1, max=LONGEST, tooltip="Frames of the video."
                ),
                io.Float.Input(
                    "decay",
                    default=AUTOMATIC["decay"],
                    min=AUTOMATIC["decay"],
                    max=MAX_DECAY,
                    step=0.05,
                    round=0.001,
                    tooltip="How wide an area each token attends to in frames two or more away. "
                    "Smaller skips more. 0 is the model's own value for the length.",
                ),
                io.Int.Input(
                    "sink_frames",
                    default=AUTOMATIC["sink_frames"],
                    min=AUTOMATIC["sink_frames"],
                    max=MOST,
                    tooltip=f"How many of the first latent frames ({frames_per_latent_frame()}) "
                    "every frame attends to in full. -1 is the model's own value.",
                ),
                io.Int.Input(
                    "dense_blocks",
                    default=AUTOMATIC["dense_blocks"],
                    min=AUTOMATIC["dense_blocks"],
                    max=MOST,
                    tooltip="How many of the first transformer blocks keep dense attention. The "
                    "picture doesn't show them; the speed-up includes them. -1 is the model's own "
                    "value.",
                ),
                io.Combo.Input(
                    "block_size",
                    options=BLOCK_SIZE_CHOICES,
                    default="128",
                    tooltip="Attention is kept or skipped in blocks of this many tokens a side.",
                    advanced=True,
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="A model to use in place of model_type. If it comes from Radial "
                    "Attention Patch, that node's settings replace the ones here.",
                ),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="A video latent, such as an empty one, to use in place of width, "
                    "height and length.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "image",
                    tooltip="Queries down, keys across. Colours: how far apart in time they are.",
                ),
                io.String.Output("figures", tooltip="The figures in words."),
                io.Float.Output("density", tooltip="Kept share of the block map, from 0 to 1."),
                io.Float.Output(
                    "speedup",
                    tooltip="An estimate: how many times as fast a whole radial step is as one "
                    "with dense attention by the fastest kernel.",
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, block_size=None) -> bool | str:
        return block_size is None or why_not_block_size(block_size) or True

    @classmethod
    def execute(
        cls,
        model_type,
        width,
        height,
        length,
        decay,
        sink_frames,
        dense_blocks,
        block_size,
        model=None,
        latent=None,
    ) -> io.NodeOutput:
        check_choice("model_type", model_type, VIDEO_MODELS)
        check_number("width", width, 16, LARGEST, whole=True)
        check_number("height", height, 16, LARGEST, whole=True)
        check_number("length", length, 1, LONGEST, whole=True)
        settings = read_settings(
            dense_last_steps=1,  # as the patch node by default
            dense_blocks=dense_blocks,
            sink_frames=sink_frames,
            decay=decay,
            block_size=block_size,
        )
        entry, name = VIDEO_MODELS[model_type], model_type
        if model is not None:
            network = _network(model)
            entry = catalog_entry(network, entry)
            name, override = entry.preset.name, override_of(model)
            settings = settings if override is None else override.settings
        size = entry.latent(width, height, length) if latent is None else _size(latent)
        layout = entry.layout(size) if model is None else typical_layout(network, entry, size)
        found = forecast(name, entry, size, layout, settings)
        image, text = as_image(picture(found)), figures(found)
        return io.NodeOutput(
            image,
            text,
            found.density,
            found.estimate.step_speedup,
            ui=picture_and_text(image, text, cls),
        )


def _network(model):
    """The diffusion model of a MODEL. Raises ValueError if the preview can't say anything of it."""
    check_model(model)
    network = model.get_model_object("diffusion_model")
    if family_of(network) is None:
        raise ValueError(f"model must be {family_names('or')}, got {class_name(network)}")
    if (why := why_no_catalog_entry(network)) is not None:
        raise ValueError(f"model must be one that can be previewed: {why}")
    if model.model.latent_format.latent_dimensions != 3:  # HunyuanImage is HunyuanVideo's class
        raise ValueError("model must make videos, got one that makes pictures")
    return network


def _size(latent) -> tuple[int, int, int]:
    """Frames, height and width of a LATENT. Raises ValueError if it is no video."""
    samples = check_latent(latent)
    if samples.ndim != 5:
        shape = " x ".join(map(str, samples.shape))
        raise ValueError(
            f"latent must be a video (batch x channels x frames x height x width), got {shape}"
        )
    return tuple(samples.shape[2:])
