"""An attention call inside a graph of torch.compile: one op, opaque to the compiler.

Each time it runs, the op looks up the forward pass that its thread is in (current_pass.py). Its
arguments are what is the same in every pass, and what the model writes into transformer_options
while it runs, which the graph writes back when it ends.

Calls that need gradients have another op. Whether a call is sparse, and by which kernel, is known
when it runs, not when it is traced. So its autograd formula keeps q, k, v and the number of the
call, and runs the call again with gradients, as gradient checkpointing does.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from itertools import count

import torch

from ...radial_core.call import wants_gradients
from ..comfyui.attention_functions import FUNCTIONS
from ..comfyui.option_keys import BLOCK, IN_PARTS
from .compiled import outside_of_ops
from .current_pass import CURRENT

log = logging.getLogger("radial_attention")

# What the models write into transformer_options while they run.
WRITTEN = ("block_index", "total_blocks", "block_type", "grid_sizes")

# CUDA graphs would record what one step decides and replay it. The backend "cudagraphs" skips
# graphs with an input on the CPU.
with torch.inference_mode(False):
    ON_THE_CPU = torch.zeros(1, device="cpu")


def traced(func: Callable, q, k, v, heads: int, **kwargs):
    """An attention call as one op of the graph that is being traced."""
    options = kwargs.get("transformer_options") or {}
    if torch.is_autocast_enabled(q.device.type):  # which is off when the graph runs
        dtype = torch.get_autocast_dtype(q.device.type)
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
    arguments = (
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
    if wants_gradients(q, k, v):
        out, _ = torch.ops.radial_attention.attention_in_training(*arguments)
    else:
        out = torch.ops.radial_attention.attention(*arguments)
    if kwargs["skip_output_reshape"]:
        return out.unflatten(2, (heads, -1)).transpose(1, 2)
    return out


ARGUMENTS = (
    "(Tensor on_the_cpu, Tensor q, Tensor k, Tensor v, SymInt heads, Tensor? mask, "
    "bool skip_reshape, float? scale, str function, SymInt? block_index, SymInt? total_blocks, "
    "str? block_type, SymInt[]? grid_sizes)"
)
# Keeps inductor's own CUDA graphs off, in versions of torch that have it.
UNSAFE = getattr(torch.Tag, "cudagraph_unsafe", None)
OF_OPS = {"mutates_args": (), **({} if UNSAFE is None else {"tags": (UNSAFE,)})}


@torch.library.custom_op("radial_attention::attention", schema=f"{ARGUMENTS} -> Tensor", **OF_OPS)
def attention(on_the_cpu, q, k, v, *arguments):
    """-> (b, s, h * d), contiguous."""
    return call_of(q, k, *arguments)(q, k, v)


@attention.register_fake
def shape_of_attention(on_the_cpu, q, k, v, heads, mask, skip_reshape, *_):
    if skip_reshape:
        return q.new_empty(q.shape[0], q.shape[2], heads * v.shape[-1])
    return q.new_empty(q.shape[0], q.shape[1], heads * (q.shape[2] // heads))


@dataclass(frozen=True)
class CompiledCall:
    """One run of the op, but for q, k and v. It can run again later, and in another thread."""

    forward: object  # the `ForwardPass` it belongs to; None if a graph runs without the node
    func: Callable
    heads: int
    kwargs: dict

    def __call__(self, q, k, v) -> torch.Tensor:
        if self.forward is None:
            _warn_of_a_stale_graph()
            out = self.func(q, k, v, self.heads, **self.kwargs)
        else:
            attend = self.forward.override.attend
            out = attend(self.forward, self.func, q, k, v, self.heads, self.kwargs)
        out = out.to(q.dtype).contiguous()
        # An op must not return one of its inputs.
        return out.clone() if out.data_ptr() in (q.data_ptr(), k.data_ptr(), v.data_ptr()) else out


def call_of(q, k, heads, mask, skip_reshape, scale, function, *written) -> CompiledCall:
    """The call that the op is asked for, in the forward pass that this thread is in."""
    forward, options = CURRENT.forward, CURRENT.options
    if forward is not None and not CURRENT.in_parts:
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
    return CompiledCall(forward, FUNCTIONS[function], heads, kwargs)


# Calls whose gradients may still be computed, until the run ends. A training step has hundreds.
KEPT = 2**14
_calls: OrderedDict[int, tuple[CompiledCall, torch.autocast]] = OrderedDict()
_numbers = count()


@torch.library.custom_op(
    "radial_attention::attention_in_training",
    schema=f"{ARGUMENTS} -> (Tensor, Tensor)",
    **OF_OPS,
)
def attention_in_training(on_the_cpu, q, k, v, *arguments):
    """-> (b, s, h * d), contiguous, and the number of the call, int64 (1,) on the CPU."""
    call, number = call_of(q, k, *arguments), next(_numbers)
    if call.forward is None:  # a render could go on dense, but gradients would be wrong
        raise RuntimeError(
            "Radial Attention Patch can't train this compiled model: a part of it ran outside of "
            "the model's forward pass, as in gradient checkpointing. Train without torch.compile."
        )
    options = dict(call.kwargs["transformer_options"])  # the pass goes on to change its own
    kind = q.device.type
    autocast = torch.autocast(kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))
    call_again = replace(call, kwargs=call.kwargs | {"transformer_options": options})
    _calls[number] = call_again, autocast
    if len(_calls) > KEPT:
        _calls.popitem(last=False)
    return call(q, k, v), on_the_cpu.new_tensor([number], dtype=torch.int64)


def forget(override) -> None:
    """Drop the calls of an override whose run has ended."""
    for number, (call, _) in list(_calls.items()):
        if call.forward.override is override:
            _calls.pop(number, None)


@attention_in_training.register_fake
def _(on_the_cpu, q, k, v, *arguments):
    out = shape_of_attention(on_the_cpu, q, k, v, *arguments)
    return out, on_the_cpu.new_empty(1, dtype=torch.int64)


@torch.library.custom_op(
    "radial_attention::gradients",
    schema="(Tensor d_out, Tensor q, Tensor k, Tensor v, Tensor number) "
    "-> (Tensor, Tensor, Tensor)",
    **OF_OPS,
)
def gradients(d_out, q, k, v, number):
    """Gradients of q, k and v for the call with this number."""
    call, autocast = _calls[int(number)]
    with outside_of_ops(), torch.enable_grad(), autocast:
        qkv = [x.detach().requires_grad_() for x in (q, k, v)]
        found = torch.autograd.grad(call(*qkv), qkv, d_out)
    return tuple(x.contiguous() for x in found)


@gradients.register_fake
def _(d_out, q, k, v, number):
    return tuple(x.new_empty(x.shape) for x in (q, k, v))


def _keep(ctx, inputs, output):
    ctx.save_for_backward(*inputs[1:4], output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.arguments = len(inputs)


def _backward(ctx, d_out, _):
    found = torch.ops.radial_attention.gradients(d_out, *ctx.saved_tensors)
    return None, *found, *[None] * (ctx.arguments - 4)


attention_in_training.register_autograd(_backward, setup_context=_keep)


def _update(options: dict, forward, is_self_attention: bool, written: dict) -> None:
    """Write into the options what the model wrote into them in the trace.

    Where something breaks the graph, each block is a graph, and blocks share it: then all of them
    say what was traced for one. So the grid is taken from the pass, and `BlockNumbers.announced`
    corrects the index.
    """
    options.update((name, value) for name, value in written.items() if value is not None)
    options.pop(BLOCK, None)
    if written["grid_sizes"] is not None:
        options["grid_sizes"] = forward.facts.tokens.grid
    if is_self_attention and written["block_index"] is not None:
        kind, numbers = written["block_type"], forward.numbers
        options["block_index"] = numbers.announced(kind, written["block_index"])
        options[BLOCK] = numbers.in_model(kind, options["block_index"])


@cache
def _warn_of_a_stale_graph() -> None:
    log.warning(
        "A graph that torch.compile made with Radial Attention Patch runs without it now. "
        "Run the node that compiles again, or restart ComfyUI, if the result is not as expected."
    )
