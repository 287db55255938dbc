"""Transformer blocks with fused norms, for the time of a forward pass.

A block or an attention that has a fused form gets a `forward` of ours. It computes the same in
fewer passes over memory (radial_core/fused.py), and is taken away when the pass ends. That it
computes the same is proven on the block itself (proof.py). Anything else runs as it is, and is
counted with its reason: blocks and norms that other packs changed or watch, patches inside the
attention, torch.compile, tensors that the fused operations don't take.

A family names its file in this folder, whose FORMS are its fused forms. Each file is loaded when it
is first needed, so that it can fail alone.
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

from ..comfyui import features
from ..families.base import Family
from ..families.registry import family_of, unwrapped
from .fits import Form, is_cancel, require, words_of
from .proof import require_proven

log = logging.getLogger("radial_attention")

Forms = dict[tuple[str, str], Form]  # by module and class


@contextmanager
def fused_blocks(diffusion_model):
    """For the time of a forward pass, the blocks of a model that can be are fused.

    Yields a Counter that grows with the pass: None for a fused block, or why it was not -> calls.
    Blocks that are never fused count as called once.
    """
    this_pass = _Pass()
    changed = []  # (module, our forward, what it had of its own)
    try:
        forms = _forms_of(family_of(diffusion_model))
        for block in _blocks(diffusion_model):
            _install(this_pass, forms, block, changed)
    except Exception as error:
        _say_once(f"Norms are not fused. {words_of(error)}")
    try:
        yield this_pass.calls
    finally:
        for module, ours, theirs in changed:
            if vars(module).get("forward") is not ours:
                continue  # somebody put another one there in the meantime
            del module.forward
            if theirs is not None:
                module.forward = theirs


class _Pass:
    """calls: as `fused_blocks` yields them. parts: why parts of the block that runs are not fused.

    classes, broken_off: those of blocks, and the proofs, that were looked at in this pass.
    """

    def __init__(self):
        self.calls, self.parts = Counter(), []
        self.classes, self.broken_off = {}, {}


def _forms_of(family: Family | None) -> Forms:
    """The fused forms of a family; none if it names no file, or the file can't be loaded."""
    if family is None or family.fused_blocks is None:
        return {}
    file = features.load(f"fused blocks for {family.name}", f".fused_blocks.{family.fused_blocks}")
    return {} if file is None else file.FORMS


def _blocks(diffusion_model) -> Iterator:
    family = family_of(diffusion_model)
    for each in family.block_lists if family else ():
        if each.main:
            yield from getattr(unwrapped(diffusion_model), each.name, None) or ()


def _install(this_pass: _Pass, forms: Forms, block, changed: list[tuple]) -> None:
    """Give a block and its parts forwards of ours. changed: gets what has to be undone."""
    lacking = None
    parts = [getattr(block, form.part, None) for form in forms.values() if form.part]
    for module in (*parts, block):
        if module is None:
            continue
        theirs = vars(module).get("forward")
        try:
            form = _form_of(forms, module, theirs)
        except Exception as error:
            why = words_of(error)
            if module is block:
                _count(this_pass, module, why)
            lacking = why
            continue
        ours = partial(_run, this_pass, form, lacking, module)
        module.forward = ours
        changed.append((module, ours, theirs))


def _form_of(forms: Forms, module, theirs) -> Form:
    """The fused form of a block or an attention; raises Declined where there is none."""
    kind = type(module)
    require("_orig_mod" not in module._modules, "torch.compile has it")
    form = forms.get((kind.__module__, kind.__qualname__))
    require(form is not None, f"{kind.__qualname__} has no fused form")
    # An object patch that is gone leaves the class's own method on the instance.
    changed = theirs is not None and getattr(theirs, "__func__", None) is not kind.forward
    own = inspect.getattr_static(kind, "forward")
    is_comfyuis = isinstance(own, types.FunctionType) and own.__globals__ is vars(
        sys.modules[kind.__module__]
    )
    require(is_comfyuis and not changed, "another pack's forward")
    compiled = (getattr(part, "_compiled_call_impl", None) for part in module.modules())
    require(not any(compiled), "torch.compile has it or a part of it")
    return form


def _run(this_pass: _Pass, form: Form, lacking: str | None, module, *arguments, **named):
    """A pass of a block: ours, or ComfyUI's own if the call is not for ours.

    lacking: why its self-attention is never fused.
    """
    if torch.compiler.is_compiling():
        return type(module).forward(module, *arguments, **named)
    compute, why = None, None
    try:
        compute = _plan(this_pass, form, module, arguments, named)
    except Exception as error:
        if is_cancel(error):
            raise
        why = words_of(error)
    if form.part is None:
        this_pass.parts = [lacking] if lacking else []
    elif why is not None:
        this_pass.parts.append(why)
    if compute is None:
        out = type(module).forward(module, *arguments, **named)
    else:
        out = compute()
    if form.part is None:
        why = why or next(iter(this_pass.parts), None)
        _count(this_pass, module, why)
    return out


def _plan(this_pass: _Pass, form: Form, module, arguments: tuple, named: dict):
    """What computes a call. Raises, before anything happens, where it is not for ours."""
    names = _names_of(form)
    require(len(arguments) <= len(names), "arguments that the fused form doesn't know")
    unknown = named.keys() - set(names)
    require(not unknown, f"an argument that the fused form doesn't know: {', '.join(unknown)}")
    call = dict(zip(names, arguments, strict=False)) | named
    compute = form.plan(module, **call)
    proofs = this_pass.classes, this_pass.broken_off
    require_proven(form, module, call, len(arguments), *proofs)
    return compute


@cache
def _names_of(form: Form) -> tuple[str, ...]:
    return tuple(inspect.signature(form.plan).parameters)[1:]


def _count(this_pass: _Pass, block, why: str | None) -> None:
    this_pass.calls[why] += 1
    if why is not None:
        _say_once(f"Norms are not fused in {type(block).__qualname__}: {why}")


@cache
def _say_once(message: str) -> None:
    log.info(message)
