"""Proof that a fused form computes what a block of ComfyUI's does: both run on small input.

Once per make of a block and kind of call, in a sandbox (sandbox.py). Random numbers come from a
generator of its own, so the user's seed makes the same video.
"""

import itertools
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import torch

from ...radial_core.call import is_out_of_memory
from .fits import HOOKS, Form, is_cancel, require, words_of
from .make import make_of
from .sandbox import alone, options_of

NONE = {}
OPTIONS = "transformer_options"
# Of what the block adds. Rounding is 40 % of this or less, another activation twice this or more.
TOLERANCE = {torch.bfloat16: 0.025, torch.float16: 5e-3, torch.float32: 1e-4}
TRIES = 3  # passes in which a proof may break off before it counts as failed
MOST_VERDICTS = 500


class Verdict(NamedTuple):
    """why_not: what differs; None if nothing does. off: how far apart the results are.

    skipped: parts of the module that ComfyUI's forward calls and ours does not. heeded: what
    ComfyUI's looks up in transformer_options and in their patches, and ours does not.
    """

    why_not: str | None
    skipped: tuple[str, ...] = ()
    heeded: frozenset = frozenset()
    off: float | None = None


_verdicts: dict[tuple, Verdict] = {}
_tries: Counter = Counter()


def require_proven(
    form: Form, module, call: dict, positional: int, seen: dict, broken_off: dict
) -> None:
    """That a fused form may take a call. positional: how many of its arguments have no names.

    seen: the classes that were looked through in this pass. broken_off: the proofs that broke off
    in it; they are tried again in another.
    """
    kinds = tuple((name, _kind(form, value)) for name, value in call.items())
    key = form.plan, make_of(module, seen), positional, kinds
    verdict = _verdicts.get(key) or broken_off.get(key)
    if verdict is None:
        verdict = _prove(form, module, call, positional, key, broken_off)
    require(verdict.why_not is None, verdict.why_not)
    require_unwatched(module, verdict.skipped)
    options = call.get(OPTIONS) or NONE
    present = {*options, *(("patches", name) for name, on in _patches(options) if on)}
    names = [name if isinstance(name, str) else name[1] for name in verdict.heeded & present]
    require(not names, f"{', '.join(sorted(names))} in transformer_options")


def require_unwatched(module, skipped: tuple[str, ...]) -> None:
    """That nobody wants to be called when these parts are, or has put something in their place."""
    watched = torch.nn.modules.module
    for hooks in HOOKS:
        require(not getattr(watched, f"_global{hooks}", None), "a hook on all modules")
    for name in skipped:
        part = module.get_submodule(name)
        own = type(part).__module__.startswith(("torch.nn.", "comfy.")) and not part._buffers
        require(own, f"another pack's {name}")  # its state may change what it does
        require(not any(getattr(part, hooks) for hooks in HOOKS), f"a hook on {name}")
        require("forward" not in vars(part), f"another pack's forward of {name}")
        require("parametrizations" not in part._modules, f"a parametrization of {name}")


def _patches(options: dict):
    return (options.get("patches") or NONE).items()


def _kind(form: Form, value):
    """What of an argument may change what is computed, besides numbers."""
    if torch.is_tensor(value):
        return value.device, value.dtype, value.ndim
    if isinstance(value, dict):
        return tuple(name for name, on in _patches(value) if on and name in form.patches)
    return value if isinstance(value, bool | None) else type(value)


def _prove(form, module, call, positional, key, broken_off) -> Verdict:
    if len(_verdicts) >= MOST_VERDICTS:  # some pack makes a new function for each pass
        _verdicts.clear()
        _tries.clear()
    try:
        _verdicts[key] = compare(form, module, call, positional)
        return _verdicts[key]
    except Exception as error:
        if is_cancel(error):
            raise
        why = f"the proof failed: {words_of(error)}"
        if is_out_of_memory(error):
            why = "no memory for the proof"
        _tries[key] += 1
        broken_off[key] = Verdict(why)
        if _tries[key] >= TRIES:
            _verdicts[key] = broken_off[key]
        return broken_off[key]


class _Run(NamedTuple):
    """What a way to compute a block did. inputs: after it, since blocks add in place."""

    outputs: list[torch.Tensor]
    inputs: dict
    parts: set[str]  # that were called
    heeded: set  # what was looked up in the options
    attention: list  # what else attention was called with, besides tensors


def compare(form: Form, module, call: dict, positional: int = 0) -> Verdict:
    """Runs both on small input."""
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

    def run(way: Callable) -> _Run:
        inputs = {k: v.clone() if torch.is_tensor(v) else v for k, v in small.items()}
        heeded, attention = set(), []
        named = {**inputs, OPTIONS: options_of(heeded, attention, patches)}
        arguments = [named.pop(name) for name in itertools.islice(call, positional)]
        with alone(module) as parts:
            out = way(*arguments, **named)
        outputs = [out] if torch.is_tensor(out) else list(out)
        return _Run(outputs, inputs, parts, heeded, attention)

    devices = [x.device] if x.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        want, got = run(theirs), run(ours)
    off = _apart(form, small, want, got)
    why_not = None
    if not off <= TOLERANCE[x.dtype]:
        why_not = f"its results are not those of the fused operations: off by {off:.1%}"
    elif got.parts - want.parts:
        why_not = f"it does not call {', '.join(sorted(got.parts - want.parts))}"
    elif got.attention != want.attention:
        why_not = "it asks something else of attention"
    skipped = tuple(sorted(want.parts - got.parts))
    return Verdict(why_not, skipped, frozenset(want.heeded - got.heeded), off)


def _apart(form: Form, small: dict, want: _Run, got: _Run) -> float:
    """The largest relative difference of what both did; inf if it can't be told.

    It is relative to what the block adds: next to the tokens themselves a fault would seem small.
    """
    before = [small[name] for name in form.residuals] or [None] * len(want.outputs)
    pairs = list(zip(want.outputs, got.outputs, before, strict=True))
    names = [name for name, value in small.items() if torch.is_tensor(value)]
    pairs += [(want.inputs[name], got.inputs[name], small[name]) for name in names]
    return max(_difference(*pair) for pair in pairs)


def _difference(want, got, before) -> float:
    if want.shape != got.shape or want.dtype != got.dtype:
        return float("inf")
    if torch.equal(want, got):
        return 0.0
    want, got = want.double(), got.double()
    added = want if before is None else want - before.double()
    off = ((got - want).norm() / added.norm()).item()
    return off if off == off else float("inf")


def _drawer(x: torch.Tensor) -> Callable:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int, size: float = 1.0) -> torch.Tensor:
        return (size * torch.randn(shape, generator=generator)).to(x.device, x.dtype)

    return draw
