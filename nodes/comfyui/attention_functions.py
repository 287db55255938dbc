"""ComfyUI's attention functions, undecorated, as its attention hook passes them."""

import sys
from collections.abc import Callable

import comfy.ldm.modules.attention as comfy_attention
import torch

FUNCTIONS = {
    name: function.__wrapped__
    for name, function in vars(comfy_attention).items()
    if name.startswith("attention") and hasattr(function, "__wrapped__")
}


def is_comfyuis(func: Callable) -> bool:
    """Whether an attention function is one of ComfyUI's own."""
    return FUNCTIONS.get(getattr(func, "__name__", "")) is func


def comfyuis_own() -> Callable:
    """The function that ComfyUI was started with; torch's, if a pack put its own there."""
    chosen = getattr(comfy_attention.optimized_attention, "__wrapped__", None)
    if chosen is not None and is_comfyuis(chosen):
        return chosen
    return FUNCTIONS["attention_pytorch"]


def asks_comfyuis_own(diffusion_model: torch.nn.Module) -> bool:
    """Whether the file of a model's class calls the function that ComfyUI was started with."""
    module = sys.modules.get(type(diffusion_model).__module__)
    return getattr(module, "optimized_attention", None) is comfy_attention.optimized_attention


def attention_of(block: torch.nn.Module) -> Callable:
    """The attention function that the files of a block's classes call, or of what they import.

    HunyuanVideo's blocks import a function that calls it, and LTX's ask for it in ComfyUI's file.
    """
    for name in dict.fromkeys(type(part).__module__ for part in block.modules()):
        inside = vars(sys.modules.get(name, comfy_attention))
        calls = getattr(inside.get("attention"), "__globals__", {})
        for names in (inside, calls):
            if "optimized_attention" in names:
                return names["optimized_attention"]
    return comfy_attention.optimized_attention


def asks_the_hook(function: Callable) -> bool:
    """Whether ComfyUI's decorator that asks the attention hook is on an attention function."""
    decorator = comfy_attention.attention_pytorch.__code__
    while getattr(function, "__code__", None) is not decorator:
        function = getattr(function, "__wrapped__", None)
        if function is None:
            return False
    return True


def container_function_of(func: Callable) -> Callable | None:
    """The form of one of ComfyUI's functions that takes q, k and v in containers, if it has one.

    Versions newer than 0.30 have containers: who takes a tensor out of one is its only owner.
    """
    if not is_comfyuis(func):
        return None
    return getattr(vars(comfy_attention).get(func.__name__), "container_function", None)


def preferred_attention(block: torch.nn.Module) -> Callable | None:
    """The attention function that the checkpoint chose for a block's self-attention, if any.

    Newer versions than 0.30 keep it in a part of the block's attention. They forget it where an
    override is on the hook, so it doesn't come to us with the call.
    """
    for part in block.modules():
        if type(part).__name__ == "ComfyAttention":
            function = getattr(part, "function", None)
            return getattr(function, "__wrapped__", function)
    return None
