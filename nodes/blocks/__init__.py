"""Transformer blocks with fused norms, for the time of a forward pass.

A block or an attention of a class named here gets a `forward` of ours, which computes the same in
fewer passes over memory (radial_core/fused.py), and loses it when the pass ends. Whatever is not as
it was when that was written is left alone: another version of ComfyUI's code, blocks that other
packs changed, patches inside the attention, tensors that the fused operations don't take.
"""

import hashlib
import inspect
import logging
from contextlib import contextmanager
from functools import cache, partial

import torch

from ...radial_core import fused
from . import hunyuan, wan

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
    """For the time of a forward pass, the blocks of a model that are known are fused."""
    changed = []
    try:
        for module in _blocks_and_attentions(diffusion_model):
            forward = forward_for(type(module))
            theirs = "forward" in vars(module) or getattr(module, "_compiled_call_impl", None)
            if forward is not None and not theirs:
                module.forward = partial(_run, forward, module)
                changed.append(module)
        yield
    finally:
        for module in changed:
            vars(module).pop("forward", None)


def _blocks_and_attentions(diffusion_model):
    for name in ("blocks", "double_blocks", "single_blocks"):
        for block in getattr(diffusion_model, name, ()):
            yield block
            if hasattr(block, "self_attn"):
                yield block.self_attn


@cache
def forward_for(kind: type):
    """Our forward of a class of ComfyUI's, if there is one and it stands for that very code."""
    forward = FORWARDS.get((kind.__module__, kind.__qualname__))
    if forward is None:
        return None
    try:
        code = inspect.getsource(kind.forward)
    except OSError:
        code = ""
    if hashlib.sha256(code.encode()).hexdigest()[:16] in KNOWN[forward]:
        return forward
    log.info("No fused norms in %s: this ComfyUI's code is not one that is known", kind.__name__)
    return None


def _run(forward, module, *arguments, **named):
    """A pass of a block: ours, or ComfyUI's own if ours can't."""
    out = None
    try:
        if not torch.compiler.is_compiling():
            out = forward(module, *arguments, **named)
    except fused.Failed as error:
        log.warning("%s. ComfyUI's own norms are used.", error)
    return type(module).forward(module, *arguments, **named) if out is None else out
