"""Why a model, or a pass, runs on one card, though several were asked for."""

import torch

from ..comfyui import features
from ..comfyui.attention_functions import attention_of
from ..comfyui.option_keys import KEY, SLOT
from ..comfyui.packs import is_in_comfyui, module_of, pack_name
from ..comfyui.state import is_training
from ..families.registry import comfyuis_class, family_of, unknown, unwrapped
from ..families.transformer_blocks import transformer_blocks
from .pass_call import innermost

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
    return _why_changed(unwrapped(model))


def heads_of(model) -> int:
    model = unwrapped(model)
    if hasattr(model, "num_heads"):
        return model.num_heads
    return next(iter(model.blocks)).attn.heads


def _why_changed(model: torch.nn.Module) -> str | None:
    """Whether another pack changed the model, or its class, in this process."""
    if innermost(model) in vars(model):
        return f"{pack_name(module_of(vars(model)[innermost(model)]) or '')} replaces its forward"
    for name, module in model.named_modules():
        cls, own = type(module), vars(module).get("forward")
        if not (is_in_comfyui(cls.__module__) or cls.__module__.startswith("torch.")):
            return f"{name or 'the model'} is {pack_name(cls.__module__)}'s"
        if own is not None and getattr(own, "__func__", None) is not cls.forward:
            return f"{pack_name(module_of(own) or '')} replaces the forward of {name}"
        origin = module_of(cls.forward)
        if not (is_in_comfyui(origin) or origin.startswith("torch.")):
            return f"{pack_name(origin)} replaces the forward of {cls.__name__}"
    for _, block in transformer_blocks(model):
        origin = module_of(attention_of(block)) or ""
        if not is_in_comfyui(origin):
            return f"{pack_name(origin)} replaces ComfyUI's attention"
    return None


def why_not_pass(options: dict, control) -> str | None:
    """Why a pass of a model that can be split can't. options: its transformer_options."""
    if "multigpu_thread_device" in options:
        return "MultiGPU CFG Split gives each conditioning a GPU of its own"
    if control is not None:
        return "ControlNet"
    for name in ("patches", "patches_replace"):
        found = [key for key, value in (options.get(name) or {}).items() if value]
        if found:
            return f"a node patches {found[0]}"
    forward = options.get(KEY)
    other = options.get(SLOT) if forward is None else forward.previous
    if other is not None:
        return f"{pack_name(module_of(other) or type(other).__module__)} is on the attention hook"
    return None
