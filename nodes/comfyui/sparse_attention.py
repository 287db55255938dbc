"""Other packs' sparse attention: whose a function or an override is, and what it stands on.

As eight_bit.py: nothing says so in ComfyUI, so both are known by their names. What can't be told
counts as full attention. The names are those of ComfyUI up to 0.38 (Model Sparse Attention), of the
Sol-Attn packs, of ComfyUI-RadialAttn and of SpargeAttn's and VSA's kernels.
"""

import inspect
import re
from collections.abc import Callable, Iterator
from functools import partial
from types import FunctionType, MethodType

from .functions import closure, remembered
from .packs import pack_name

# In the name of a pack, of a module in it, or of a function.
SPARSE = re.compile(r"sparse|sparge|spas_sage|sol[-_]?attn|sol[-_]attention|radial[-_]?attn", re.I)
CORES = "comfy_extras.nodes_sparse_attention"
OURS = __package__.removesuffix(".nodes.comfyui")
# Of the variable in which an override keeps the one that was on the hook before it.
KEEPS_PREVIOUS = re.compile(r"prev|fallback|override")
MOST = 20  # overrides on top of each other


@remembered(None)
def sparse_owner(function: Callable | None) -> str | None:
    """The node or pack whose sparse attention this is, for a person to read; None if it is none.

    function: an attention function, or an override on ComfyUI's hook.
    """
    if function is None:
        return None
    if isinstance(function, partial):
        return sparse_owner(function.func)
    module = str(function.__module__)
    if module == CORES:
        return "Model Sparse Attention"
    if module.startswith(f"{OURS}."):
        return None
    pack, last = pack_name(module), re.split(r"[/\\]", module)[-1]
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return pack if any(SPARSE.search(each) for each in (pack, last, name)) else None


def below_sparse(override: Callable | None) -> tuple[Callable | None, str | None]:
    """The override below those that are sparse, None if there is none, and whose the first was."""
    owner = first = sparse_owner(override)
    for _ in range(MOST):
        if owner is None:
            return override, first
        override = _previous(override)
        owner = sparse_owner(override)
    return None, first


def _previous(override: Callable) -> Callable | None:
    """The override that this one hands the calls to which it does not take, as far as it says."""
    for name, value in _variables(override):
        if KEEPS_PREVIOUS.search(name) and callable(value) and _is_override(value):
            return value
    return None


def _variables(function: Callable) -> Iterator[tuple[str, object]]:
    if isinstance(function, partial):
        yield from function.keywords.items()
        function = function.func
    if isinstance(function, MethodType):
        yield from _variables(function.__self__)
        function = function.__func__
    yield from (getattr(function, "__dict__", None) or {}).items()
    if isinstance(function, FunctionType):
        yield from closure(function).items()


def _is_override(function: Callable) -> bool:
    """An attention function has q as its first argument, an override what it stands for."""
    try:
        return next(iter(inspect.signature(function).parameters), "q") not in ("q", "query")
    except Exception:  # objects of other packs may answer anything
        return False


def without_sparse_blocks(options: dict) -> str | None:
    """Take Model Sparse Attention's blocks out of a pass's transformer_options, and say so.

    In MiniMax H3 that node replaces the attention of blocks, which then asks no hook. The dicts in
    the options are the MODEL's, and stay as they are.
    """
    replaced = options.get("patches_replace", {})
    blocks = replaced.get("dit", {})
    sparse = {key for key, patch in blocks.items() if getattr(patch, "__module__", None) == CORES}
    if not sparse:
        return None
    kept = {key: _block_below(patch) for key, patch in blocks.items()}
    kept = {key: patch for key, patch in kept.items() if patch is not None}
    options["patches_replace"] = {**replaced, "dit": kept}
    return "Model Sparse Attention"


def _block_below(patch: Callable | None) -> Callable | None:
    for _ in range(MOST):
        if getattr(patch, "__module__", None) != CORES:
            return patch
        patch = dict(_variables(patch)).get("previous")
    return None
