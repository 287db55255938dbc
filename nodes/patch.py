"""Radial Attention Patch: MODEL -> MODEL whose self-attention is radial."""

from comfy_api.latest import io

from ..radial_core.attention import check_backend_name, choose_backend
from ..radial_core.backends import BACKENDS
from ..radial_core.call import Call
from ..radial_core.masks.radial import MAX_DECAY
from .comfyui import features
from .comfyui.option_keys import KEY
from .families.node_texts import family_names, frames_per_latent_frame, preset_values
from .families.registry import FAMILIES, head_dim_of
from .hook.attach import attach
from .hook.dense_choice import AUTO, CHOICES
from .hook.override import RadialOverride
from .hook.precision import CHOICES as PRECISIONS
from .hook.precision import EIGHT_BIT, check_backend_precision, precision_of
from .inputs.checks import (
    BLOCK_SIZE_CHOICES,
    check_choice,
    check_model,
    check_plain,
    why_not_block_size,
)
from .inputs.presets import (
    CUSTOM,
    DEFAULT,
    PRESET_NAMES,
    choose_settings,
    presets_in_words,
)
from .inputs.settings import AUTOMATIC, LEAST_BUDGET, LISTS, MOST, MOST_BUDGET, RADIAL

TRAINING = f"{KEY}_training"  # the key of the callbacks for training
APPROXIMATE = ", ".join(name for name in BACKENDS if precision_of(name) == EIGHT_BIT)


class RadialAttentionPatch(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="RadialAttentionPatch",
            display_name="Radial Attention Patch",
            category="model/patch",
            description="Makes long videos faster: each frame attends closely to frames near it "
            "in time, and less and less to those further away (Radial Attention). For "
            f"{family_names()}. Choose a preset: it fits your model and the length of the video.",
            search_aliases=[
                "radial",
                "sparse attention",
                "long video",
                "fast video",
                *(f"{family.name.lower()} speed" for family in FAMILIES),
            ],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip=f"A video model: {family_names('or')}. Other models run as without "
                    "this node.",
                ),
                io.Int.Input(
                    "dense_steps",
                    default=AUTOMATIC["dense_steps"],
                    min=AUTOMATIC["dense_steps"],
                    max=MOST,
                    tooltip="How many of the sampler's first steps keep dense attention. These "
                    "steps decide what happens in the video: more of them come closer to the "
                    "result without this node, and are slower. -1 is the paper's choice: a quarter "
                    "of the steps at the length the model was trained on, 2 for longer videos. If "
                    "two samplers share a schedule, it is the steps in the first quarter of its "
                    "noise (none for the low-noise expert of Wan 2.2).",
                ),
                io.Int.Input(
                    "dense_last_steps",
                    default=1,
                    min=0,
                    max=MOST,
                    tooltip="How many of the last steps keep dense attention. One cleans up the "
                    "edges of the picture; 0 is a little faster. A sampler that stops early and "
                    "hands over to another has no last steps.",
                ),
                io.Int.Input(
                    "dense_blocks",
                    default=AUTOMATIC["dense_blocks"],
                    min=AUTOMATIC["dense_blocks"],
                    max=MOST,
                    tooltip="How many of the first transformer blocks keep dense attention in "
                    "every step. They lay out the scene; each one more is a little slower. -1 is "
                    f"the model's value: {preset_values('dense_blocks')}; 2 for videos longer "
                    "than the model was trained on.",
                ),
                io.Int.Input(
                    "sink_frames",
                    default=AUTOMATIC["sink_frames"],
                    min=AUTOMATIC["sink_frames"],
                    max=MOST,
                    tooltip=f"How many of the first latent frames ({frames_per_latent_frame()}) "
                    "every frame attends to in full: the attention sink. It holds the scene "
                    "together over time at little cost. 0 turns it off. -1 is the model's value: "
                    f"{preset_values('sink_frames')}; 1 for videos longer than the model was "
                    "trained on.",
                ),
                io.Float.Input(
                    "decay",
                    default=AUTOMATIC["decay"],
                    min=AUTOMATIC["decay"],
                    max=MAX_DECAY,
                    step=0.05,
                    round=0.001,
                    tooltip="How wide an area each token attends to in frames two or more away. "
                    "Smaller is faster, larger is closer to dense attention. 0 is the model's "
                    f"value: {preset_values('decay')}; 1 for videos longer than the model was "
                    "trained on.",
                ),
                io.Combo.Input(
                    "block_size",
                    options=BLOCK_SIZE_CHOICES,
                    default="128",
                    tooltip="Attention is kept or skipped in blocks of this many tokens a side. "
                    "The models' values were tuned for 128. 64 follows the pattern more closely "
                    "and keeps less, but may run slower on your GPU.",
                    advanced=True,
                ),
                io.Combo.Input(
                    "backend",
                    options=["auto", *(name for name in BACKENDS if name != "reference")],
                    default="auto",
                    tooltip="What computes the kept blocks. auto takes the fastest one that can "
                    f"in the precision below. In 8 bits: {APPROXIMATE}. All others are exact: they "
                    "change the speed, not the picture.",
                    advanced=True,
                ),
                io.Combo.Input(
                    "dense_attention",
                    options=list(CHOICES),
                    default=AUTO,
                    optional=True,  # older saved graphs don't have it
                    tooltip="What computes the video's self-attention where it is full, such as in "
                    "the dense steps. comfyui: what would run without this node. fastest: the "
                    "fastest kernel on this machine, an exact one unless precision is 8 bit. auto: "
                    "the fastest, unless you chose an attention yourself, on ComfyUI's command "
                    "line or with another node.",
                    advanced=True,
                ),
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    default=AUTO,
                    optional=True,  # older saved graphs don't have it
                    tooltip="How exactly the kept blocks are computed. exact: as exactly as dense "
                    "attention in the model's own precision. 8 bit: faster on many GPUs, with "
                    "small differences, as SageAttention has them; where no such kernel can run, "
                    "an exact one does. If you chose no dense attention yourself, it may run in "
                    "8 bits too. auto: 8 bit if you run dense attention in 8 bits already "
                    "(SageAttention, Comfy Kitchen attention), else exact. Training is always "
                    "exact.",
                    advanced=True,
                ),
                io.Combo.Input(
                    "lists",
                    options=list(LISTS),
                    default=RADIAL,
                    optional=True,  # older saved graphs don't have it
                    tooltip="Which blocks are kept. radial: those of the radial mask, the same in "
                    "every head. adaptive: as many, but each head keeps those that it attends to "
                    "most. It looks right after the dense steps, and comes closer to the result "
                    "without this node. Without dense steps it is radial.",
                ),
                io.Float.Input(
                    "budget",
                    default=1.0,
                    min=LEAST_BUDGET,
                    max=MOST_BUDGET,
                    step=0.01,
                    round=0.001,
                    optional=True,
                    tooltip="For adaptive lists: how many blocks they keep, as a share of those "
                    "that radial keeps with these settings. Smaller is faster; larger is closer to "
                    "dense attention.",
                ),
                io.Combo.Input(
                    "preset",
                    options=list(PRESET_NAMES),
                    default=DEFAULT,
                    optional=True,  # older saved graphs don't have it
                    tooltip="How near to the result without this node, and how fast. "
                    f"{presets_in_words()} custom: the inputs above decide. The others decide "
                    "dense_steps, dense_last_steps, dense_blocks, sink_frames, decay, lists and "
                    "budget by your model, the length of the video and the number of steps; these "
                    "inputs are not used then.",
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
        precision=AUTO,
        lists=RADIAL,
        budget=1.0,
        preset=CUSTOM,
    ) -> io.NodeOutput:
        check_model(model)
        check_plain(backend=backend)
        settings = choose_settings(
            preset,
            dense_steps=dense_steps,
            dense_last_steps=dense_last_steps,
            dense_blocks=dense_blocks,
            sink_frames=sink_frames,
            decay=decay,
            block_size=block_size,
            lists=lists,
            budget=budget,
        )
        check_backend_name(backend)
        check_choice("dense_attention", dense_attention, CHOICES)
        check_choice("precision", precision, PRECISIONS)
        check_backend_precision(precision, backend)
        head_dim = head_dim_of(model.get_model_object("diffusion_model"))
        if backend != "auto" and head_dim is not None:
            dtype = model.model.manual_cast_dtype or model.model_dtype()
            per_head = settings.adaptive_budget is not None
            call = Call(model.load_device, dtype, head_dim, settings.block_size, per_head=per_head)
            choose_backend(backend, call)

        node = getattr(cls.hidden, "unique_id", None)  # None outside a server
        override = RadialOverride(settings, backend, dense_attention, precision, node)
        model = model.clone()
        attach(model, override)
        training = features.load("training", ".training.prepare")
        if training is not None:
            training.prepare_for_training(model, TRAINING)
        return io.NodeOutput(model)
