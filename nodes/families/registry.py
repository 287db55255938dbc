"""Finds what is known of a model by its class, and asks its family's file.

A family joins by its file and a place in FAMILIES.
"""

from ...radial_core import VideoLayout
from ...radial_core.estimate import ModelSize
from ..comfyui.option_keys import BLOCK
from . import hunyuan, kandinsky5, mochi, wan
from .base import Family, Preset, TokenLayout

CROSS_ATTENTION = "cross-attention"
OUTSIDE_BLOCKS = "outside the transformer blocks"
OTHERS = (CROSS_ATTENTION, OUTSIDE_BLOCKS)  # calls that are no self-attention over the video

FAMILIES: tuple[Family, ...] = (wan.FAMILY, hunyuan.FAMILY, mochi.FAMILY, kandinsky5.FAMILY)


def unwrapped(diffusion_model):
    """The model itself, without torch.compile's wrapping."""
    return getattr(diffusion_model, "_orig_mod", diffusion_model)


def class_name(diffusion_model) -> str:
    """The class of a diffusion model, as module.Class."""
    cls = type(unwrapped(diffusion_model))
    return f"{cls.__module__}.{cls.__qualname__}"


def family_of(diffusion_model) -> Family | None:
    name = class_name(diffusion_model)
    return next((family for family in FAMILIES if name in family.classes), None)


def head_dim_of(diffusion_model) -> int | None:
    """head_dim of a model's self-attention; None if the model is not known."""
    family = family_of(diffusion_model)
    return family and family.head_dim(unwrapped(diffusion_model))


def size_of(diffusion_model) -> ModelSize | None:
    """The work of a model's blocks on the video; None if `why_no_estimate` says why."""
    if why_no_estimate(diffusion_model) is not None:
        return None
    return family_of(diffusion_model).size(unwrapped(diffusion_model))


def why_no_estimate(diffusion_model) -> str | None:
    """Why a model's speed can't be estimated; None if it can."""
    family = family_of(diffusion_model)
    if family is None:
        return unknown(diffusion_model)
    if family.size is None:
        return f"this pack doesn't know how much work {family.name}'s blocks are"
    return None


def unknown(diffusion_model) -> str:
    """What is said of a model of no family."""
    return f"{class_name(diffusion_model)} is not a model this pack knows"


def why_not_forward(diffusion_model, x, options: dict) -> str | None:
    """Why a whole forward pass runs as it would without the patch; None if it can be radial.

    x: the latent. options: the pass's transformer_options.
    """
    if family_of(diffusion_model) is None:
        return unknown(diffusion_model)
    if x.ndim != 5:
        return "not a video"
    if options.get("ar_state") is not None:
        return "made some frames at a time, which see what came before"  # by a cache of keys
    return None


def preset_of(diffusion_model, whole_schedule: bool) -> Preset:
    """The preset of a known model.

    whole_schedule: whether the sampler runs the whole noise schedule. Experts that share one can
    look like a model that runs all of it.
    """
    family = family_of(diffusion_model)
    preset = family.classes[class_name(diffusion_model)].preset(unwrapped(diffusion_model))
    return preset if whole_schedule else family.expert_presets.get(preset, preset)


def token_layout_of(diffusion_model, x, c_crossattn, conditions: dict) -> TokenLayout:
    """The tokens of a pass that `why_not_forward` lets through.

    x: the latent (b, c, f, h, w). c_crossattn, conditions: what BaseModel.apply_model gets besides.
    """
    model = unwrapped(diffusion_model)
    cls = family_of(diffusion_model).classes[class_name(diffusion_model)]
    return cls.token_layout(model, x, c_crossattn, conditions)


def self_attention_layout(
    sequence: TokenLayout, options: dict, query_tokens: int, key_tokens: int
) -> VideoLayout | str:
    """Where the video stands in a call, or why the call is not self-attention over the video.

    options: the call's transformer_options.
    """
    is_told = options.get(BLOCK) is not None or options.get("block_index") is not None
    if sequence.announced and not is_told:
        return OUTSIDE_BLOCKS  # HunyuanVideo's text refiner
    # Wan's cross-attention comes with the same options: the video asks, the text answers.
    if query_tokens != key_tokens:
        return CROSS_ATTENTION
    if key_tokens in sequence.others:
        return f"the video and its prompt both have {key_tokens} tokens: can't tell which this is"
    layout = sequence.layout(query_tokens)
    if layout is None:
        video = "x".join(str(n) for n in sequence.grid)
        return f"{query_tokens} tokens are not a video of {video} and what goes with it"
    return layout
