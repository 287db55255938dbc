"""Why a model, or a pass, runs on one card, though several were asked for."""

from collections.abc import Callable

import torch

from ..comfyui import features
from ..comfyui.option_keys import KEY, SLOT
from ..comfyui.packs import module_of, pack_name
from ..comfyui.state import is_training
from ..families.registry import comfyuis_class, family_of, size_of, unknown, unwrapped
from .why_changed import is_ours, why_changed

# Of ModelPatcher: what a node puts there changes the model in ComfyUI's process alone.
CHANGES = {
    "injections": "a node injects something into the model",
    "hook_patches": "a LoRA has a schedule",
    "weight_wrapper_patches": "a node changes weights as they are used",
}


def why_not_model(base, options: dict, cards: int) -> str | None:
    """Why no pass of a model can be split; None if they can.

    base: ComfyUI's BaseModel. options: transformer_options of a pass.
    """
    model, patcher = base.diffusion_model, base.current_patcher
    if "multigpu_thread_device" in options:
        return "MultiGPU CFG Split gives each conditioning a GPU of its own"
    family = family_of(model)
    if family is None:
        return str(unknown(model))
    name = comfyuis_class(model)
    if not family.classes[name].splits:
        return f"{family.name}'s {name.rpartition('.')[2]} can't be split among GPUs yet"
    compiled = features.load("torch.compile support", ".hook.compiled")
    if compiled is not None and compiled.is_compiled(model, options):
        return "the model is compiled by torch.compile"
    if is_training() or torch.is_grad_enabled():
        return "the model is in training"
    if base.model_config.custom_operations is not None:
        return f"its layers are {pack_name(base.model_config.custom_operations.__module__)}'s"
    for attribute, why in CHANGES.items():
        if getattr(patcher, attribute, None):
            return why
    changed = [key for key in patcher.object_patches if key.startswith("diffusion_model")]
    if changed:
        return f"a node replaces {changed[0]}"
    heads = heads_of(model)
    if heads < cards:
        return f"the model has {heads} heads, fewer than there are GPUs"
    return why_changed(unwrapped(model))


def heads_of(model) -> int:
    return size_of(model).heads


def why_not_pass(model: torch.nn.Module, options: dict, control) -> str | None:
    """Why a pass of a model that can be split can't. options: its transformer_options."""
    if control is not None:
        return "ControlNet"
    for name in ("patches", "patches_replace"):
        found = [key for key, value in (options.get(name) or {}).items() if value]
        if found:
            return f"a node patches {found[0]}"
    other = _other_on_the_hook(options)
    if other is not None:
        origin = module_of(other) or type(other).__module__
        name = "Radial Attention Probe" if is_ours(origin) else pack_name(origin)
        return f"{name} is on the attention hook"
    return why_changed(unwrapped(model))  # for this pass only, as caches of steps do


def _other_on_the_hook(options: dict) -> Callable | None:
    """What is on the attention hook but radial attention, which the other cards have too."""
    forward, found = options.get(KEY), options.get(SLOT)
    if forward is not None and found is forward.override:
        return forward.previous
    return found
