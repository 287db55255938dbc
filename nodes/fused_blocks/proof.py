"""Proof that a fused form computes the same as ComfyUI's block: both run on a small input.

A proof runs once per fingerprint of a block and kind of call, in a sandbox (sandbox.py). It has its
own random generator, so that the user's seed still makes the same video.
"""

import inspect
import itertools
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import torch

from ...radial_core.call import is_out_of_memory
from .fingerprint import fingerprint
from .fits import HOOKS, Form, is_cancel, reason_of, require
from .sandbox import isolated, recording_options

NONE = {}
OPTIONS = "transformer_options"
# Relative to what the block adds. Rounding is at most 40 % of it, two thirds in MiniMax H3's block,
# and a wrong activation twice it.
TOLERANCE = {torch.bfloat16: 0.025, torch.float16: 5e-3, torch.float32: 1e-4}
TRIES = 3  # passes in which a proof may raise before it counts as failed
MOST_VERDICTS = 500


class Verdict(NamedTuple):
    """why_not: what differs; None if nothing does. error: the relative error of the results.

    skipped: parts of the module that ComfyUI's forward calls and ours does not. looked_up: keys of
    transformer_options and of its patches that ComfyUI's forward looks up and ours does not.
    """

    why_not: str | None
    skipped: tuple[str, ...] = ()
    looked_up: frozenset = frozenset()
    error: float | None = None


_verdicts: dict[tuple, Verdict] = {}
_tries: Counter = Counter()


def require_proven(
    form: Form, module, call: dict, positional: int, seen: dict, unfinished: dict
) -> None:
    """Declines a call unless the fused form is proven for it.

    positional: how many of its arguments are positional. seen: a cache of the code of classes, for
    this pass. unfinished: the proofs that raised in this pass; the next pass tries them again.
    """
    kinds = tuple((name, _kind(form, value)) for name, value in call.items())
    key = form.plan, fingerprint(module, seen), positional, kinds
    verdict = _verdicts.get(key) or unfinished.get(key)
    if verdict is None:
        verdict = _prove(form, module, call, positional, key, unfinished)
    require(verdict.why_not is None, verdict.why_not)
    require_unwatched(module, verdict.skipped)
    options = call.get(OPTIONS) or NONE
    present = {*options, *(("patches", name) for name, on in _patches(options) if on)}
    names = [name if isinstance(name, str) else name[1] for name in verdict.looked_up & present]
    require(not names, f"{', '.join(sorted(names))} in transformer_options")


def require_unwatched(module, skipped: tuple[str, ...]) -> None:
    """Declines if another pack hooked or replaced one of these parts, which ours does not call."""
    watched = torch.nn.modules.module
    for hooks in HOOKS:
        require(not getattr(watched, f"_global{hooks}", None), "a hook on all modules")
    for name in skipped:
        part = module.get_submodule(name)
        own = type(part).__module__.startswith(("torch.nn.", "comfy.")) and not part._buffers
        require(own, f"another pack's {name}")  # which may compute anything
        require(not any(getattr(part, hooks) for hooks in HOOKS), f"a hook on {name}")
        require("forward" not in vars(part), f"another pack's forward of {name}")
        require("parametrizations" not in part._modules, f"a parametrization of {name}")


def _patches(options: dict):
    return (options.get("patches") or NONE).items()


def _kind(form: Form, value):
    """The properties of an argument, besides numbers, that may change what is computed."""
    if torch.is_tensor(value):
        return value.device, value.dtype, value.ndim
    if isinstance(value, dict):
        return tuple(name for name, on in _patches(value) if on and name in form.patches)
    return value if isinstance(value, bool | None) else type(value)


def _prove(form, module, call, positional, key, unfinished) -> Verdict:
    if len(_verdicts) >= MOST_VERDICTS:  # a pack may make a new function for each pass
        _verdicts.clear()
        _tries.clear()
    try:
        _verdicts[key] = compare(form, module, call, positional)
        return _verdicts[key]
    except Exception as error:
        if is_cancel(error):
            raise
        why = f"the proof failed: {reason_of(error)}"
        if is_out_of_memory(error):
            why = "no memory for the proof"
        _tries[key] += 1
        unfinished[key] = Verdict(why)
        if _tries[key] >= TRIES:
            _verdicts[key] = unfinished[key]
        return unfinished[key]


class _Run(NamedTuple):
    """What one forward of a block did. inputs: as it left them, since blocks add in place."""

    outputs: list[torch.Tensor]
    inputs: dict
    parts: set[str]  # the parts that were called
    looked_up: set  # keys, as `Verdict` has them
    attention: list  # the arguments of its calls of attention, without tensors


def compare(form: Form, module, call: dict, positional: int = 0) -> Verdict:
    """Runs both forwards on a small input."""
    x = next(value for value in call.values() if torch.is_tensor(value))
    draw = _drawer(x)
    small = form.small(draw, **{name: call[name] for name in call if name != OPTIONS})
    small = {name: value for name, value in small.items() if name in call or value is not None}
    patches = _kind(form, call.get(OPTIONS, NONE))

    def theirs(*arguments, **named):
        return type(module).forward(module, *arguments, **named)

    def ours(*arguments, **named):
        names = itertools.islice(call, positional)
        return form.plan(module, **dict(zip(names, arguments, strict=True)), **named)()

    def run(forward: Callable) -> _Run:
        inputs = {k: v.clone() if torch.is_tensor(v) else v for k, v in small.items()}
        looked_up, attention = set(), []
        named = dict(inputs)
        if OPTIONS in inspect.signature(form.plan).parameters:
            named[OPTIONS] = recording_options(looked_up, attention, patches)
        arguments = [named.pop(name) for name in itertools.islice(call, positional)]
        with isolated(module) as parts:
            out = forward(*arguments, **named)
        outputs = [out] if torch.is_tensor(out) else list(out)
        return _Run(outputs, inputs, parts, looked_up, attention)

    devices = [x.device] if x.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        want, got = run(theirs), run(ours)
    error = _error(form, small, want, got)
    why_not = None
    if not error <= TOLERANCE[x.dtype]:
        why_not = f"it computes something else than the fused operations: off by {error:.1%}"
    elif got.parts - want.parts:
        why_not = f"it does not call {', '.join(sorted(got.parts - want.parts))}"
    elif got.attention != want.attention:
        why_not = "it calls attention with other arguments"
    skipped = tuple(sorted(want.parts - got.parts))
    return Verdict(why_not, skipped, frozenset(want.looked_up - got.looked_up), error)


def _error(form: Form, small: dict, want: _Run, got: _Run) -> float:
    """The largest relative error of outputs and changed inputs; inf if it can't be computed.

    It is relative to what the block adds: relative to the tokens themselves a fault would look
    small.
    """
    before = [small[name] for name in form.residuals] or [None] * len(want.outputs)
    pairs = list(zip(want.outputs, got.outputs, before, strict=True))
    names = [name for name, value in small.items() if torch.is_tensor(value)]
    pairs += [(want.inputs[name], got.inputs[name], small[name]) for name in names]
    return max(_relative_error(*pair) for pair in pairs)


def _relative_error(want, got, before) -> float:
    if want.shape != got.shape or want.dtype != got.dtype:
        return float("inf")
    if torch.equal(want, got):
        return 0.0
    want, got = want.double(), got.double()
    added = want if before is None else want - before.double()
    error = ((got - want).norm() / added.norm()).item()
    return error if error == error else float("inf")


def _drawer(x: torch.Tensor) -> Callable:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int, size: float = 1.0) -> torch.Tensor:
        return (size * torch.randn(shape, generator=generator)).to(x.device, x.dtype)

    return draw
