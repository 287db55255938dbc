"""Which pack a module belongs to, by the name that people know it by."""

import sys
from functools import partial


def is_in_comfyui(module: str) -> bool:
    return module.partition(".")[0] == "comfy"


def module_of(function) -> str | None:
    """The __name__ of the module that a function or another callable was defined in."""
    while isinstance(function, partial):
        function = function.func
    return getattr(function, "__module__", None)


def pack_name(module: str) -> str:
    """The folder of a module in custom_nodes, or else the name of its package.

    module: its __name__. ComfyUI loads a pack under the path of its folder, with "_x_" for dots.
    """
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    for path in (file, module.partition(".")[0].replace("_x_", ".")):
        *parents, name = path.replace("\\", "/").split("/")
        if "custom_nodes" in parents:
            last = len(parents) - parents[::-1].index("custom_nodes")
            return [*parents, name.removesuffix(".py")][last]
    return name
