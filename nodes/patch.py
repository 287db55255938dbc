"""Radial Attention Patch: MODEL -> MODEL whose self-attention is radial."""

from comfy_api.latest import io

from ..radial_core.attention import check_backend_name, choose_backend
from ..radial_core.backends import BACKENDS
from ..radial_core.call import Call
from ..radial_core.pattern import MAX_DECAY
from .comfyui import features
from .comfyui.option_keys import KEY
from .families.registry import head_dim_of
from .hook.attach import attach
from .hook.dense_choice import AUTO, CHOICES
from .hook.override import RadialOverride
from .inputs.checks import (
    BLOCK_SIZE_CHOICES,
    check_choice,
    check_model,
    check_plain,
    why_not_block_size,
)
from .inputs.settings import AUTOMATIC, MOST, read_settings

TRAINING = f"{KEY}_training"  # the key of the callbacks for training


class RadialAttentionPatch(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="RadialAttentionPatch",
            display_name="Radial Attention Patch",
            category="model/patch",
            description="Makes long videos faster: each frame looks closely at the frames near it "
            "in time and less and less at those further away (Radial Attention). For Wan, "
            "HunyuanVideo and Mochi. Left as they are, the settings are those of its authors for "
            "the model and the length of the video.",
            search_aliases=[
                "radial",
                "sparse attention",
                "long video",
                "fast video",
                "wan speed",
                "hunyuan speed",
                "mochi speed",
            ],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="A video model: Wan, HunyuanVideo or Mochi. Any other runs as before.",
                ),
                io.Int.Input(
                    "dense_steps",
                    default=AUTOMATIC["dense_steps"],
                    min=AUTOMATIC["dense_steps"],
                    max=MOST,
                    tooltip="First steps of the sampler that keep full attention. They settle what "
                    "happens in the video: more is closer to the unpatched result and slower. -1 "
                    "is the authors' choice: a quarter of the steps at the trained length, 2 for "
                    "longer videos; of two samplers that share a schedule, those in the first "
                    "quarter of its noise (none for the low-noise expert of Wan 2.2).",
                ),
                io.Int.Input(
                    "dense_last_steps",
                    default=1,
                    min=0,
                    max=MOST,
                    tooltip="Last steps that keep full attention. One cleans up the edges of the "
                    "picture; 0 is a little faster. A sampler that stops before the end and hands "
                    "over to another has no last steps.",
                ),
                io.Int.Input(
                    "dense_blocks",
                    default=AUTOMATIC["dense_blocks"],
                    min=AUTOMATIC["dense_blocks"],
                    max=MOST,
                    tooltip="First transformer blocks that keep full attention at every step. They "
                    "lay out the scene; each one more is a little slower. -1 is the authors' "
                    "choice: 1 for Wan, 0 for HunyuanVideo and Mochi, 2 for longer videos than "
                    "they were trained on.",
                ),
                io.Int.Input(
                    "sink_frames",
                    default=AUTOMATIC["sink_frames"],
                    min=AUTOMATIC["sink_frames"],
                    max=MOST,
                    tooltip="First latent frames (4 video frames each, 6 in Mochi) that every "
                    "frame sees in full: the attention sink. It holds the scene together over time "
                    "at little cost. 0 turns it off. -1 is the authors' choice: 1, but 0 for "
                    "HunyuanVideo at its trained length.",
                ),
                io.Float.Input(
                    "decay",
                    default=AUTOMATIC["decay"],
                    min=AUTOMATIC["decay"],
                    max=MAX_DECAY,
                    step=0.05,
                    round=0.001,
                    tooltip="How wide a frame looks at frames two and more away. Smaller is "
                    "faster, larger is closer to full attention. 0 is the authors' choice: 0.2 for "
                    "Wan 2.1, 0.8 for Wan 2.2, 0.95 for HunyuanVideo, 1 for Mochi and for longer "
                    "videos than the model was trained on.",
                ),
                io.Combo.Input(
                    "block_size",
                    options=BLOCK_SIZE_CHOICES,
                    default="128",
                    tooltip="Tokens a side of the blocks that are kept or dropped together. 128 is "
                    "what the settings above were tuned for; 64 follows the pattern more closely, "
                    "keeps fewer tokens and may run slower on your GPU.",
                    advanced=True,
                ),
                io.Combo.Input(
                    "backend",
                    options=["auto", *(name for name in BACKENDS if name != "reference")],
                    default="auto",
                    tooltip="What computes the kept blocks. auto takes the fastest that can. All "
                    "are exact, so this changes the speed, not the picture.",
                    advanced=True,
                ),
                io.Combo.Input(
                    "dense_attention",
                    options=list(CHOICES),
                    default=AUTO,
                    optional=True,  # graphs saved before it was there
                    tooltip="What computes the video's self-attention where it stays full, as in "
                    "the dense steps. comfyui is what would have run without this node; fastest is "
                    "the fastest exact kernel on this machine; auto is fastest unless you chose an "
                    "attention yourself, on ComfyUI's command line or by another node.",
                    advanced=True,
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model with radial self-attention.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, block_size=None) -> bool | str:
        return block_size is None or why_not_block_size(block_size) or True

    @classmethod
    def execute(
        cls,
        model,
        dense_steps,
        dense_last_steps,
        dense_blocks,
        sink_frames,
        decay,
        block_size,
        backend,
        dense_attention=AUTO,
    ) -> io.NodeOutput:
        check_model(model)
        check_plain(backend=backend)
        settings = read_settings(
            dense_steps=dense_steps,
            dense_last_steps=dense_last_steps,
            dense_blocks=dense_blocks,
            sink_frames=sink_frames,
            decay=decay,
            block_size=block_size,
        )
        check_backend_name(backend)
        check_choice("dense_attention", dense_attention, CHOICES)
        head_dim = head_dim_of(model.get_model_object("diffusion_model"))
        if backend != "auto" and head_dim is not None:
            dtype = model.model.manual_cast_dtype or model.model_dtype()
            choose_backend(backend, Call(model.load_device, dtype, head_dim, settings.block_size))

        node = getattr(cls.hidden, "unique_id", None)  # None outside a server
        override = RadialOverride(settings, backend, dense_attention, node)
        model = model.clone()
        attach(model, override)
        training = features.load("training", ".training.prepare")
        if training is not None:
            training.prepare_for_training(model, TRAINING)
        return io.NodeOutput(model)
