"""Radial Mask Preview: what is kept of a video and what that saves, before it is made."""

from comfy_api.latest import io

from ..radial_core.pattern import MAX_DECAY
from .comfyui.node_ui import picture_and_text
from .drawing.canvas import as_image
from .families.catalog import VIDEO_MODELS, catalog_entry, layout_of
from .families.registry import class_name, family_of
from .forecast.forecast import figures, forecast, picture
from .hook.override import override_of
from .inputs.checks import (
    BLOCK_SIZE_CHOICES,
    check_choice,
    check_latent,
    check_model,
    check_number,
    why_not_block_size,
)
from .inputs.settings import AUTOMATIC, MOST, Settings

LARGEST, LONGEST = 16_384, 100_000  # pixels to a side, frames


class RadialMaskPreview(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="RadialMaskPreview",
            display_name="Radial Mask Preview",
            category="radial attention",
            description="Shows what Radial Attention computes of a video, what it skips, and how "
            "much faster that makes it, before anything is rendered. It needs no model: choose one "
            "by its name, and play with the settings.",
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
                    tooltip="The model that will make the video. A linked model counts in its "
                    "place; but the two experts of Wan 2.2 can't be told from Wan 2.1: for them "
                    "choose Wan 2.2 here, too.",
                ),
                io.Int.Input(
                    "width", default=832, min=16, max=LARGEST, step=16, tooltip="Of the video."
                ),
                io.Int.Input(
                    "height", default=480, min=16, max=LARGEST, step=16, tooltip="Of the video."
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
                    tooltip="How wide a frame looks at frames two and more away. Smaller skips "
                    "more. 0 is the choice of the method's authors for the model and the length.",
                ),
                io.Int.Input(
                    "sink_frames",
                    default=AUTOMATIC["sink_frames"],
                    min=AUTOMATIC["sink_frames"],
                    max=MOST,
                    tooltip="First latent frames (4 video frames each, 6 in Mochi) that every "
                    "frame sees in full. -1 is the authors' choice.",
                ),
                io.Int.Input(
                    "dense_blocks",
                    default=AUTOMATIC["dense_blocks"],
                    min=AUTOMATIC["dense_blocks"],
                    max=MOST,
                    tooltip="First transformer blocks that keep full attention. They are not in "
                    "the picture, but in the speed-up. -1 is the authors' choice.",
                ),
                io.Combo.Input(
                    "block_size",
                    options=BLOCK_SIZE_CHOICES,
                    default="128",
                    tooltip="Tokens a side of the blocks that are kept or skipped together.",
                    advanced=True,
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="A model to take the place of model_type. If it comes from Radial "
                    "Attention Patch, that node's settings take the place of those here.",
                ),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="A video latent, as empty ones, to take the place of width, height and "
                    "length.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "image", tooltip="Queries down, keys across; what is kept, by how far away."
                ),
                io.String.Output("figures", tooltip="The figures in words."),
                io.Float.Output("density", tooltip="Kept share of the block map, from 0 to 1."),
                io.Float.Output(
                    "speedup",
                    tooltip="How many times as fast a whole radial step is to be as one with full "
                    "attention by the fastest kernel: an estimate.",
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
        settings = Settings.read(
            dense_last_steps=0,
            dense_blocks=dense_blocks,
            sink_frames=sink_frames,
            decay=decay,
            block_size=block_size,
        )
        kind, name = VIDEO_MODELS[model_type], model_type
        if model is not None:
            network = _network(model)
            kind = catalog_entry(network, kind)
            name, override = kind.authors.name, override_of(model)
            settings = settings if override is None else override.settings
        size = kind.latent(width, height, length) if latent is None else _size(latent)
        layout = kind.layout(size) if model is None else layout_of(network, kind, size)
        found = forecast(name, kind, size, layout, settings)
        image, text = as_image(picture(found)), figures(found)
        return io.NodeOutput(
            image,
            text,
            found.rows.density,
            found.estimate.step_speedup,
            ui=picture_and_text(image, text, cls),
        )


def _network(model):
    """The diffusion model of a MODEL. Raises ValueError if it is none that this pack knows."""
    check_model(model)
    network = model.get_model_object("diffusion_model")
    if family_of(network) is None:
        raise ValueError(f"model must be Wan, HunyuanVideo or Mochi, got {class_name(network)}")
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
