"""ComfyUI's attention functions, undecorated, as its attention hook passes them."""

from collections.abc import Callable

import comfy.ldm.modules.attention as comfy_attention

FUNCTIONS = {
    name: function.__wrapped__
    for name, function in vars(comfy_attention).items()
    if name.startswith("attention") and hasattr(function, "__wrapped__")
}


def is_comfyuis(func: Callable) -> bool:
    """Whether an attention function is one of ComfyUI's own."""
    return FUNCTIONS.get(getattr(func, "__name__", "")) is func
