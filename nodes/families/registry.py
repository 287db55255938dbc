"""Finds what is known of a model by its class, and asks its family's file.

A family joins by its file and a place in FAMILIES.
"""

from dataclasses import replace

from ...radial_core.estimate import ModelSize
from ..comfyui.packs import is_in_comfyui, pack_name
from ..run.reasons import Reason, Why
from . import cosmos, hunyuan, kandinsky5, lightricks, minimax_h3, mochi, wan
from .base import Family, Preset, TokenLayout

FAMILIES: tuple[Family, ...] = (
    wan.FAMILY,
    hunyuan.FAMILY,
    mochi.FAMILY,
    kandinsky5.FAMILY,
    minimax_h3.FAMILY,
    cosmos.FAMILY,
    lightricks.FAMILY,
)


def unwrapped(diffusion_model):
    """The model itself, without torch.compile's wrapping."""
    return getattr(diffusion_model, "_orig_mod", diffusion_model)


def class_name(diffusion_model) -> str:
    """The class of a diffusion model for people: module.Class of ComfyUI's, or whose it is."""
    cls = type(unwrapped(diffusion_model))
    if is_in_comfyui(cls.__module__):
        return _full_name(cls)
    return f"{cls.__qualname__} of {pack_name(cls.__module__)}"


def another_packs_class(diffusion_model) -> str | None:
    """The name for people of a class that another pack put in the place of ComfyUI's, if any."""
    cls = type(unwrapped(diffusion_model))
    return None if is_in_comfyui(cls.__module__) else class_name(diffusion_model)


def _full_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def comfyuis_class(diffusion_model) -> str:
    """ComfyUI's class of a diffusion model, as module.Class.

    A subclass that another pack put in its place counts as the class that it was made from: lengths
    and order of the tokens show whether its calls are the same. ComfyUI's own subclasses have
    layouts of their own, such as WanAnimate2Model, which attends to a second video frame by frame.
    """
    cls = type(unwrapped(diffusion_model))
    return _full_name(next((c for c in cls.__mro__ if is_in_comfyui(c.__module__)), cls))


def family_of(diffusion_model) -> Family | None:
    name = comfyuis_class(diffusion_model)
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


def unknown(diffusion_model) -> Why:
    """What is said of a model of no family."""
    return Why(Reason.UNKNOWN_MODEL, class_name(diffusion_model))


def preset_of(diffusion_model, whole_schedule: bool) -> Preset:
    """The preset of a known model.

    whole_schedule: whether the sampler runs the whole noise schedule. Experts that share one can
    look like a model that runs all of it.
    """
    family = family_of(diffusion_model)
    preset = family.classes[comfyuis_class(diffusion_model)].preset(unwrapped(diffusion_model))
    return preset if whole_schedule else family.expert_presets.get(preset, preset)


def token_layout_of(diffusion_model, x, c_crossattn, conditions: dict) -> TokenLayout:
    """The tokens of a pass that `hook.forward_pass.why_all_dense` lets through.

    x: the latent (b, c, f, h, w), of the video alone. c_crossattn, conditions: what
    BaseModel.apply_model gets besides.
    """
    model = unwrapped(diffusion_model)
    cls = family_of(diffusion_model).classes[comfyuis_class(diffusion_model)]
    tokens = cls.token_layout(model, x, c_crossattn, conditions)
    # Another pack's loop over the blocks may not say which one runs.
    return tokens if is_in_comfyui(type(model).__module__) else replace(tokens, announced=False)
