"""Forward passes of a model that torch.compile compiles.

ComfyUI's TorchCompileModel drops all guards on transformer_options, so what a trace reads from them
is baked into the graph, for every step and every conditioning. Hence nothing is decided in the
trace: an attention call becomes one op (compiled_op.py), which decides each time it runs.
"""

from collections.abc import Callable
from functools import partial

import torch
from comfy.patcher_extension import WrappersMP

from ...radial_core.call import wants_gradients
from ..comfyui.attention_functions import is_comfyuis
from ..comfyui.option_keys import IN_PARTS, KEY
from ..families.registry import unwrapped
from .arguments import KNOWN
from .block_hooks import hooked_blocks
from .current_pass import CURRENT

try:
    from comfy_api.torch_helpers.torch_compile import COMPILE_KEY
except ImportError:
    COMPILE_KEY = "torch.compile"  # ComfyUI's, as of 0.30
RUNS_AGAIN = f"{KEY}_runs_again"  # in transformer_options: see mark


# Inside an op torch records nothing for gradients, whatever enable_grad says. This is how its own
# operators that need gradients get back to the state outside (torch/_higher_order_ops).
try:
    with torch.inference_mode(False):
        OUTSIDE = (
            torch._C._dispatch_tls_local_include_set(),
            torch._C._dispatch_tls_local_exclude_set(),
        )
    outside_of_ops = partial(torch._C._ForceDispatchKeyGuard, *OUTSIDE)
except AttributeError:  # private names; without them, calls that need gradients leave the graph
    outside_of_ops = None


def is_compiled(diffusion_model, options: dict) -> bool:
    """Whether a forward pass runs under ComfyUI's torch.compile, all of it or parts."""
    wrappers = options.get("wrappers", {}).get(WrappersMP.APPLY_MODEL, {})
    is_wrapped = unwrapped(diffusion_model) is not diffusion_model
    compiles_its_calls = getattr(diffusion_model, "_compiled_call_impl", None) is not None
    return COMPILE_KEY in wrappers or is_wrapped or compiles_its_calls


def mark(options: dict, diffusion_model) -> str:
    """Prepare a pass of a compiled model; returns an extra argument that gives it its own graph.

    The model ignores the argument. But torch keeps graphs by arguments, not by options: without it,
    a pass with this pack could get the graph of one without, and a pass that gradient checkpointing
    runs again (see why_not) the graph of one that runs once.
    """
    again = torch.is_grad_enabled() and _is_checkpointed(diffusion_model)
    options[RUNS_AGAIN] = again
    wrappers = options.get("wrappers", {})
    of_models = {**wrappers.get(WrappersMP.DIFFUSION_MODEL, {}), KEY: [wrap_model]}
    options["wrappers"] = {**wrappers, WrappersMP.DIFFUSION_MODEL: of_models}
    return "runs again" if again else "runs once"


def _is_checkpointed(diffusion_model) -> bool:
    """Whether ComfyUI's Train LoRA uses gradient checkpointing in parts of the model."""
    return any(hasattr(part, "org_forward") for part in unwrapped(diffusion_model).modules())


def wrap_model(executor, *args, **kwargs):
    """Wrapper of a compiled diffusion model's forward (WrappersMP.DIFFUSION_MODEL).

    If this runs eagerly, only parts of the model are compiled, such as its blocks. They share one
    graph, so their index must not be baked into it: hooks on the blocks tell the op where it is.
    """
    if torch.compiler.is_compiling():
        return executor(*args, **kwargs)
    for options in (*args, *kwargs.values()):
        if isinstance(options, dict) and options.get(KEY) is CURRENT.forward is not None:
            options[IN_PARTS] = True
            CURRENT.options, CURRENT.in_parts = options, True
    if not CURRENT.in_parts:
        return executor(*args, **kwargs)
    with hooked_blocks(CURRENT.forward, executor.class_obj):
        return executor(*args, **kwargs)


def why_not(func: Callable, q, k, v, kwargs: dict) -> str | None:
    """Why a call must leave the graph that is being traced; None if the op can take it."""
    if not is_comfyuis(func):
        return "not one of ComfyUI's functions: the graph has no name for it"
    if kwargs["attn_precision"] is not None or kwargs.keys() - KNOWN - {"attn_precision"}:
        return "the op doesn't take all its arguments"
    if not wants_gradients(q, k, v):
        return None
    if (kwargs.get("transformer_options") or {}).get(RUNS_AGAIN):
        return "it runs again in the backward pass, when the op can't tell which pass it was in"
    return "no gradients within an op in this torch" if outside_of_ops is None else None
