"""An attention call inside a graph of torch.compile: one op, opaque to the compiler.

ComfyUI's TorchCompileModel drops all guards on transformer_options, so what a trace reads there is
baked into the graph, for every step and every conditioning. Hence nothing is decided in the trace.
The op asks, each time it runs, for the forward pass that its thread is in. Only what is the same in
every pass goes in as an argument, and what the model writes into transformer_options on the way,
which the graph writes back when it ends.
"""

import logging
import threading
from collections.abc import Callable
from contextlib import contextmanager
from functools import cache

import comfy.ldm.modules.attention as comfy_attention
import torch
from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers.torch_compile import COMPILE_KEY

from .models import unwrapped
from .names import KEY

log = logging.getLogger("radial_attention")

# ComfyUI's attention functions as the hook gets them. A graph knows its own by name.
FUNCTIONS = {
    name: function.__wrapped__
    for name, function in vars(comfy_attention).items()
    if name.startswith("attention") and hasattr(function, "__wrapped__")
}
# What the models write into transformer_options while they run.
WRITTEN = ("block_index", "total_blocks", "block_type", "grid_sizes")
IN_PARTS = f"{KEY}_in_parts"  # in transformer_options: see wrap_model
ARGUMENTS = {
    "mask",
    "attn_precision",
    "skip_reshape",
    "skip_output_reshape",
    "scale",
    "transformer_options",
    "_inside_attn_wrapper",
}

# CUDA graphs would record the decision of one step and replay it. The backend "cudagraphs" leaves
# alone a graph that has an input on the CPU.
with torch.inference_mode(False):
    ON_THE_CPU = torch.zeros(1, device="cpu")


class _Thread(threading.local):
    """The forward pass that a thread is in."""

    forward = None  # a `Forward`
    options = None  # its transformer_options
    in_parts = False  # whether the options are those that the model writes into
    last_block = None  # block_type -> index of the last self-attention call: as traced, and true


_thread = _Thread()


@contextmanager
def in_pass(forward, options: dict):
    """Compiled calls of this thread belong to this forward pass until it ends."""
    outer = dict(vars(_thread))
    vars(_thread).update(forward=forward, options=options, in_parts=False, last_block={})
    try:
        yield
    finally:
        vars(_thread).clear()
        vars(_thread).update(outer)


def is_compiled(diffusion_model, options: dict) -> bool:
    """Whether a forward pass runs under ComfyUI's torch.compile, all of it or parts."""
    wrappers = options.get("wrappers", {}).get(WrappersMP.APPLY_MODEL, {})
    return COMPILE_KEY in wrappers or unwrapped(diffusion_model) is not diffusion_model


def is_comfyuis(func: Callable) -> bool:
    """Whether an attention function is one that ComfyUI ships."""
    return FUNCTIONS.get(getattr(func, "__name__", "")) is func


def mark(options: dict) -> bool:
    """Make a pass one of a compiled model; returns the value of an argument more for the model.

    The model ignores it. But the graphs are kept by arguments, not by options, and a pass with this
    pack must not get the graph of one without it, nor the other way round.
    """
    wrappers = options.get("wrappers", {})
    of_models = {**wrappers.get(WrappersMP.DIFFUSION_MODEL, {}), KEY: [wrap_model]}
    options["wrappers"] = {**wrappers, WrappersMP.DIFFUSION_MODEL: of_models}
    return True


def wrap_model(executor, *args, **kwargs):
    """Wrapper of a diffusion model's forward (WrappersMP.DIFFUSION_MODEL) that is compiled.

    If it runs, only parts of the model are compiled, such as its blocks. They share one graph, so
    their index must not be baked into it; but then the options can be read as they stand.
    """
    if not torch.compiler.is_compiling():
        for options in (*args, *kwargs.values()):
            if isinstance(options, dict) and KEY in options:
                options[IN_PARTS] = True
                _thread.options, _thread.in_parts = options, True
    return executor(*args, **kwargs)


def why_not(func: Callable, q, k, v, kwargs: dict) -> str | None:
    """Why a call must leave the graph that is being traced; None if the op can take it."""
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        return "the backends have gradients, the op has none"
    if not is_comfyuis(func):
        return "not a function of ComfyUI's: the graph has no name for it"
    if kwargs["attn_precision"] is not None or not ARGUMENTS.issuperset(kwargs):
        return "it has arguments that the op doesn't"
    return None


def traced(func: Callable, q, k, v, heads: int, **kwargs):
    """An attention call as one op of the graph that is being traced."""
    options = kwargs.get("transformer_options") or {}
    out = torch.ops.radial_attention.attention(
        ON_THE_CPU,
        q,
        k,
        v,
        heads,
        kwargs["mask"],
        kwargs["skip_reshape"],
        kwargs.get("scale"),
        func.__name__,
        *[None if IN_PARTS in options else options.get(name) for name in WRITTEN],
    )
    if kwargs["skip_output_reshape"]:
        return out.unflatten(2, (heads, -1)).transpose(1, 2)
    return out


SCHEMA = (
    "(Tensor on_the_cpu, Tensor q, Tensor k, Tensor v, SymInt heads, Tensor? mask, "
    "bool skip_reshape, float? scale, str function, SymInt? block_index, SymInt? total_blocks, "
    "str? block_type, SymInt[]? grid_sizes) -> Tensor"
)
# What keeps inductor's own CUDA graphs off, in versions of torch that have it.
UNSAFE = getattr(torch.Tag, "cudagraph_unsafe", None)
TAGS = {} if UNSAFE is None else {"tags": (UNSAFE,)}


@torch.library.custom_op("radial_attention::attention", mutates_args=(), schema=SCHEMA, **TAGS)
def attention(on_the_cpu, q, k, v, heads, mask, skip_reshape, scale, function, *written):
    """-> (b, s, h * d), contiguous."""
    func, forward, options = FUNCTIONS[function], _thread.forward, _thread.options
    if forward is not None and not _thread.in_parts:
        _update(options, forward, q.shape == k.shape, dict(zip(WRITTEN, written, strict=True)))
    kwargs = {
        "mask": mask,
        "attn_precision": None,
        "skip_reshape": skip_reshape,
        "skip_output_reshape": False,
        "transformer_options": options or {},
        "_inside_attn_wrapper": True,
    }
    if scale is not None:
        kwargs["scale"] = scale
    if forward is None:
        _warn_of_a_stale_graph()
        out = func(q, k, v, heads, **kwargs)
    else:
        out = forward.override.attend(forward, func, q, k, v, heads, kwargs)
    out = out.to(q.dtype).contiguous()
    # An op returns nothing that it was given.
    return out.clone() if out.data_ptr() in (q.data_ptr(), k.data_ptr(), v.data_ptr()) else out


def _update(options: dict, forward, is_self_attention: bool, written: dict) -> None:
    """Bring the options up to what the model wrote into them, as far as the trace knew it.

    Where something breaks the graph, the blocks become graphs of their own and share them: then
    what was traced for one is what all of them say. So the grid is that of the pass; and a block
    that says it is the last one again is the one behind it.
    """
    options.update((name, value) for name, value in written.items() if value is not None)
    if written["grid_sizes"] is not None:
        options["grid_sizes"] = forward.sequence.grid
    if is_self_attention and written["block_index"] is not None:
        traced, kind = written["block_index"], written["block_type"]
        last_traced, last = _thread.last_block.get(kind, (None, None))
        options["block_index"] = last + 1 if traced == last_traced else traced
        _thread.last_block[kind] = traced, options["block_index"]


@cache
def _warn_of_a_stale_graph() -> None:
    log.warning(
        "A graph that torch.compile made with Radial Attention Patch runs without it now. "
        "Run the node that compiles again, or restart ComfyUI, if the result is not as expected."
    )


@attention.register_fake
def _(on_the_cpu, q, k, v, heads, mask, skip_reshape, *_):
    if skip_reshape:
        return q.new_empty(q.shape[0], q.shape[2], heads * v.shape[-1])
    return q.new_empty(q.shape[0], q.shape[1], heads * (q.shape[2] // heads))
