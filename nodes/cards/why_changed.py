"""Whether another pack changed a model in this process, which those of other cards don't see."""

import sys
from types import FunctionType

import torch

from ..comfyui.attention_functions import attention_of
from ..comfyui.packs import is_in_comfyui, module_of, pack_name
from ..families.transformer_blocks import transformer_blocks
from .cargo import PACK


def why_changed(model: torch.nn.Module) -> str | None:
    """Who changed what; None if it is as ComfyUI made it.

    It is asked in each pass, so of what many layers share it looks once.
    """
    classes = set()
    for name, module in model.named_modules():
        classes.add(cls := type(module))
        if _is_others(cls.__module__):
            return f"{name or 'the model'} is {pack_name(cls.__module__)}'s"
        why = _why_shadowed(name or "the model", module, cls) or _why_hooked(name, module)
        if why is not None:
            return why
    files = {}
    for cls in classes:
        for each in cls.__mro__:
            files[each.__module__] = each
            for name, function in vars(each).items():
                if isinstance(function, FunctionType) and _is_others(function.__module__):
                    return f"{pack_name(function.__module__)} replaces {each.__name__}.{name}"
    for _, block in transformer_blocks(model):
        origin = module_of(attention_of(block)) or ""
        if not is_in_comfyui(origin):
            return f"{pack_name(origin)} replaces ComfyUI's attention"
    return next(filter(None, map(_why_functions_changed, files)), None)


def _is_others(module: str) -> bool:
    """Whether code is another pack's. module: its __name__."""
    top = module.partition(".")[0]
    is_known = is_in_comfyui(module) or top in ("torch", "builtins")
    return not (is_known or is_ours(module))


def is_ours(module: str) -> bool:
    return f"{module}.".startswith(f"{PACK}.")


def _why_shadowed(name: str, module: torch.nn.Module, cls: type) -> str | None:
    """Whether a module has a function of its own in place of one of its class."""
    for attribute, own in vars(module).items():
        if not callable(own) or isinstance(own, type):
            continue
        of_class = getattr(cls, attribute, None)
        if of_class is None:
            continue
        # A patch that was taken back leaves a method of the class.
        if getattr(own, "__func__", None) is of_class:
            continue
        # Our own, for the time of a pass.
        if is_ours(module_of(own) or ""):
            continue
        return f"{pack_name(module_of(own) or '')} replaces {attribute} of {name}"
    return None


def _why_hooked(name: str, module: torch.nn.Module) -> str | None:
    for hooks in (module._forward_hooks, module._forward_pre_hooks):
        for hook in hooks.values():
            origin = module_of(hook) or ""
            if _is_others(origin):
                return f"{pack_name(origin)} hooks into {name or 'the model'}"
    return None


def _why_functions_changed(file: str) -> str | None:
    """Whether a pack put a function of its own into one of ComfyUI's files. file: its __name__."""
    if not is_in_comfyui(file):
        return None
    for name, value in list(vars(sys.modules.get(file)).items()):
        if not isinstance(value, FunctionType):
            continue
        origin = value.__module__ or ""
        path = getattr(sys.modules.get(origin), "__file__", None) or origin
        if "custom_nodes" in path and _is_others(origin):
            return f"{pack_name(origin)} replaces {name} of {file}"
    return None
