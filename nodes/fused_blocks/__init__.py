"""Transformer blocks with fused norms, for the duration of a forward pass.

A block or an attention that has a fused form gets a `forward` of ours, which computes the same in
fewer passes over memory (radial_core/fused.py), and loses it when the pass ends. A proof on the
block itself (proof.py) shows that it computes the same. Everything else runs unchanged and is
counted with its reason: blocks and norms that other packs replaced or hooked, patches inside the
attention, torch.compile, tensors that the fused operations don't support.

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
from .fits import Form, is_cancel, reason_of, require
from .proof import require_proven

log = logging.getLogger("radial_attention")

Forms = dict[tuple[str, str], Form]  # by module and class


@contextmanager
def fused_blocks(diffusion_model):
    """Fuses the blocks of a model that can be fused, for the duration of a forward pass.

    Yields a Counter that grows during the pass: reason -> calls, where None counts the fused calls.
    A block that can't be fused at all counts as one call.
    """
    this_pass = _Pass()
    changed = []  # (module, our forward, the instance's own forward before or None)
    try:
        forms = _forms_of(family_of(diffusion_model))
        for block in _blocks(diffusion_model):
            _install(this_pass, forms, block, changed)
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
    """Give a block and its parts our forwards. changed: collects what to undo."""
    why_not_part = None
    parts = [getattr(block, form.part, None) for form in forms.values() if form.part]
    for module in (*parts, block):
        if module is None:
            continue
        previous = vars(module).get("forward")
        try:
            form = _form_of(forms, module, previous)
        except Exception as error:
            why = reason_of(error)
            if module is block:
                _count(this_pass, module, why)
            why_not_part = why
            continue
        ours = partial(_run, this_pass, form, why_not_part, module)
        module.forward = ours
        changed.append((module, ours, previous))


def _form_of(forms: Forms, module, previous) -> Form:
    """The fused form of a block or an attention. Raises Declined if it has none."""
    cls = type(module)
    require("_orig_mod" not in module._modules, "it is compiled by torch.compile")
    form = forms.get((cls.__module__, cls.__qualname__))
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


def _run(this_pass: _Pass, form: Form, why_not_part: str | None, module, *arguments, **named):
    """Run a block: our fused form, or ComfyUI's own forward for a call that ours doesn't cover.

    why_not_part: why a part of it can't be fused; None if all can.
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
    if form.part is None:
        this_pass.parts = [why_not_part] if why_not_part else []
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
