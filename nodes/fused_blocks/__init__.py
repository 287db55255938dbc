"""Transformer blocks with fused norms, for the duration of a forward pass.

A block or an attention of a class named here gets a `forward` of ours, which computes the same in
fewer passes over memory (radial_core/fused.py), and loses it when the pass ends. A proof on the
block itself (proof.py) shows that it computes the same. Everything else runs unchanged and is
counted with its reason: blocks and norms that other packs replaced or hooked, patches inside the
attention, torch.compile, tensors that the fused operations don't support.
"""

import inspect
import logging
import sys
import types
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial

import torch

from . import hunyuan, wan
from .fits import Form, is_cancel, reason_of, require
from .proof import require_proven

log = logging.getLogger("radial_attention")

FORMS = {
    ("comfy.ldm.wan.model", "WanAttentionBlock"): wan.BLOCK,
    ("comfy.ldm.wan.model", "WanSelfAttention"): wan.SELF_ATTENTION,
    ("comfy.ldm.flux.layers", "DoubleStreamBlock"): hunyuan.DOUBLE_BLOCK,
    ("comfy.ldm.flux.layers", "SingleStreamBlock"): hunyuan.SINGLE_BLOCK,
}


@contextmanager
def fused_blocks(diffusion_model):
    """Fuses the blocks of a model that can be fused, for the duration of a forward pass.

    Yields a Counter that grows during the pass: reason -> calls, where None counts the fused calls.
    A block that can't be fused at all counts as one call.
    """
    this_pass = _Pass()
    changed = []  # (module, our forward, the instance's own forward before or None)
    try:
        for block in _blocks(diffusion_model):
            _install(this_pass, block, changed)
    except Exception as error:
        _log_once(f"Norms are not fused. {reason_of(error)}")
    try:
        yield this_pass.calls
    finally:
        for module, ours, previous in changed:
            if vars(module).get("forward") is not ours:
                continue  # somebody replaced it during the pass
            del module.forward
            if previous is not None:
                module.forward = previous


class _Pass:
    """What belongs to one forward pass.

    calls: as `fused_blocks` yields them. parts: why parts of the running block are not fused.
    classes: the code of classes that was read in this pass. unfinished: proofs that raised in it.
    """

    def __init__(self):
        self.calls, self.parts = Counter(), []
        self.classes, self.unfinished = {}, {}


def _blocks(diffusion_model) -> Iterator:
    for name in ("blocks", "double_blocks", "single_blocks"):
        yield from getattr(diffusion_model, name, None) or ()


def _install(this_pass: _Pass, block, changed: list[tuple]) -> None:
    """Give a block and its self-attention our forwards. changed: collects what to undo."""
    why_not_attention = None
    for module in (getattr(block, "self_attn", None), block):
        if module is None:
            continue
        previous = vars(module).get("forward")
        try:
            form = _form_of(module, previous)
        except Exception as error:
            why = reason_of(error)
            if module is block:
                _count(this_pass, module, why)
            why_not_attention = why
            continue
        ours = partial(_run, this_pass, form, why_not_attention, module)
        module.forward = ours
        changed.append((module, ours, previous))


def _form_of(module, previous) -> Form:
    """The fused form of a block or an attention. Raises Declined if it has none."""
    cls = type(module)
    require("_orig_mod" not in module._modules, "it is compiled by torch.compile")
    form = FORMS.get((cls.__module__, cls.__qualname__))
    require(form is not None, f"{cls.__qualname__} has no fused form")
    # An object patch that was removed leaves the class's own method on the instance.
    changed = previous is not None and getattr(previous, "__func__", None) is not cls.forward
    own = inspect.getattr_static(cls, "forward")
    is_comfyuis = isinstance(own, types.FunctionType) and own.__globals__ is vars(
        sys.modules[cls.__module__]
    )
    require(is_comfyuis and not changed, "another pack's forward")
    compiled = (getattr(part, "_compiled_call_impl", None) for part in module.modules())
    require(not any(compiled), "it or a part of it is compiled by torch.compile")
    return form


def _run(this_pass: _Pass, form: Form, why_not_attention: str | None, module, *arguments, **named):
    """Run a block: our fused form, or ComfyUI's own forward for a call that ours doesn't cover.

    why_not_attention: why its self-attention can't be fused; None if it can.
    """
    if torch.compiler.is_compiling():
        return type(module).forward(module, *arguments, **named)
    compute, why = None, None
    try:
        compute = _plan(this_pass, form, module, arguments, named)
    except Exception as error:
        if is_cancel(error):
            raise
        why = reason_of(error)
    if not form.is_part:
        this_pass.parts = [why_not_attention] if why_not_attention else []
    elif why is not None:
        this_pass.parts.append(why)
    if compute is None:
        out = type(module).forward(module, *arguments, **named)
    else:
        out = compute()
    if not form.is_part:
        why = why or next(iter(this_pass.parts), None)
        _count(this_pass, module, why)
    return out


def _plan(this_pass: _Pass, form: Form, module, arguments: tuple, named: dict):
    """What computes a call. Raises, before anything is computed, if the fused form can't."""
    names = _argument_names(form)
    require(len(arguments) <= len(names), "more arguments than the fused form knows")
    unknown = named.keys() - set(names)
    require(not unknown, f"an argument that the fused form doesn't know: {', '.join(unknown)}")
    call = dict(zip(names, arguments, strict=False)) | named
    compute = form.plan(module, **call)
    proofs = this_pass.classes, this_pass.unfinished
    require_proven(form, module, call, len(arguments), *proofs)
    return compute


@cache
def _argument_names(form: Form) -> tuple[str, ...]:
    return tuple(inspect.signature(form.plan).parameters)[1:]


def _count(this_pass: _Pass, block, why: str | None) -> None:
    this_pass.calls[why] += 1
    if why is not None:
        _log_once(f"Norms are not fused in {type(block).__qualname__}: {why}")


@cache
def _log_once(message: str) -> None:
    log.info(message)
