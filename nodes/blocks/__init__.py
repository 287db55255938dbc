"""Transformer blocks with fused norms, for the time of a forward pass.

A block or an attention of a class named here gets a `forward` of ours, which computes the same in
fewer passes over memory (radial_core/fused.py), and loses it when the pass ends. Whatever is not as
it was when that was written is left alone: another version of ComfyUI's code, blocks and norms that
other packs changed or watch, patches inside the attention, torch.compile, tensors that the fused
operations don't take.
"""

import hashlib
import inspect
import logging
import types
from collections import Counter
from contextlib import contextmanager
from functools import cache, partial

import torch

from . import hunyuan, wan
from .fits import Declined

log = logging.getLogger("radial_attention")

FORWARDS = {
    ("comfy.ldm.wan.model", "WanAttentionBlock"): wan.block,
    ("comfy.ldm.wan.model", "WanSelfAttention"): wan.self_attention,
    ("comfy.ldm.flux.layers", "DoubleStreamBlock"): hunyuan.double_block,
    ("comfy.ldm.flux.layers", "SingleStreamBlock"): hunyuan.single_block,
}
# ComfyUI's code that they stand for, by its hash: that of 0.30.0, and of 0.16.3 where it differs.
KNOWN = {
    wan.block: {"8b8ef25ffb2df635"},
    wan.self_attention: {"e57709825263ea24"},
    hunyuan.double_block: {"f091194357cad435", "bd854ccb381d9c7e"},
    hunyuan.single_block: {"8c3933bfdc75a72a", "b420335c6ddde73a"},
}


@contextmanager
def fused_blocks(diffusion_model):
    """For the time of a forward pass, the blocks of a model that are known are fused.

    Yields a Counter that grows with the pass: whether a block was fused -> calls.
    """
    changed = []  # (block, our forward, what it had of its own)
    calls = Counter()
    try:
        for module in _blocks_and_attentions(diffusion_model):
            theirs = vars(module).get("forward")
            if (forward := _forward_for(module, theirs)) is not None:
                counter = Counter() if forward is wan.self_attention else calls
                ours = partial(_run, counter, forward, module)
                module.forward = ours
                changed.append((module, ours, theirs))
    except Exception as error:
        log.warning("Not all norms are fused. %s: %s", type(error).__name__, error)
    try:
        yield calls
    finally:
        for module, ours, theirs in changed:
            if vars(module).get("forward") is not ours:
                continue  # somebody put another one there in the meantime
            del module.forward
            if theirs is not None:
                module.forward = theirs


def _blocks_and_attentions(diffusion_model):
    for name in ("blocks", "double_blocks", "single_blocks"):
        for block in getattr(diffusion_model, name, ()):
            yield block
            if hasattr(block, "self_attn"):
                yield block.self_attn


def _forward_for(module, theirs):
    """Our forward for a block or an attention; None for what is not just as ComfyUI makes it."""
    kind = type(module)
    forward = FORWARDS.get((kind.__module__, kind.__qualname__))
    # An object patch that is gone leaves the class's own method on the instance.
    changed = theirs is not None and getattr(theirs, "__func__", None) is not kind.forward
    if forward is None or changed or getattr(module, "_compiled_call_impl", None) is not None:
        return None
    return forward if stands_for(forward, kind.forward) else None


@cache
def stands_for(forward, function) -> bool:
    """Whether a forward of ours was written for that very code of ComfyUI's."""
    code = ""
    if isinstance(function, types.FunctionType) and not hasattr(function, "__wrapped__"):
        try:
            code = inspect.getsource(function.__code__)
        except OSError:
            pass
    known = hashlib.sha256(code.encode()).hexdigest()[:16] in KNOWN[forward]
    if not known:
        log.info(
            "No fused norms in Wan's or HunyuanVideo's %s: its code is another", forward.__name__
        )
    return known


def _run(calls: Counter, forward, module, *arguments, **named):
    """A pass of a block: ours, or ComfyUI's own if the call is not for ours."""
    fused = None
    if not torch.compiler.is_compiling():
        try:
            fused = forward(module, *arguments, **named)
        except Declined:
            pass
        except Exception as error:
            _say_once(f"No fused norms in a {forward.__name__}: {type(error).__name__}: {error}")
    calls[fused is not None] += 1
    return type(module).forward(module, *arguments, **named) if fused is None else fused()


@cache
def _say_once(message: str) -> None:
    log.warning(message)
