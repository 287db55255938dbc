"""ComfyUI's attention functions, undecorated, as its attention hook passes them."""

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
