"""Hooks on a model's transformer blocks, for the time of a forward pass.

A hook knows which block it is on, so attention calls can be told apart even where the model doesn't
say in which block they are: where a wrapper runs blocks and block_index stands still (First Block
Cache), where another pack calls blocks without transformer_options (NAG, MagCache, TeaCache), where
blocks are compiled one by one. The hooks also count the blocks whose attention never comes to us.
"""

import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch

from ..comfyui.option_keys import BLOCK, IN_PARTS, KEY, PREVIOUS, SLOT
from ..comfyui.packs import pack_name
from ..families.registry import unwrapped
from ..families.transformer_blocks import transformer_blocks
from ..run.reasons import Reason, Why
from ..run.record import CallEntry
from .current_pass import CURRENT
from .forward_pass import ForwardPass, hook_before_ours

OPTIONS = "transformer_options"
NODES = __package__.rpartition(".")[0]  # all rooms of this pack: the fused blocks are in another


@contextmanager
def hooked_blocks(forward: ForwardPass, diffusion_model) -> Iterator[None]:
    """Hooks the blocks of a model. Never raises: without hooks the pass runs as before.

    In training there are no hooks: gradient checkpointing runs blocks again after the pass.
    """
    watch, handles = _Watch(forward, diffusion_model), []
    try:
        for place, block in () if forward.training else transformer_blocks(diffusion_model):
            if getattr(block, "_compiled_call_impl", None) is not None:
                watch.unhooked += 1  # a hook would be in its graph
                continue
            begin, end = _Hook(watch.begin, place), _Hook(watch.end)
            handles.append(block.register_forward_pre_hook(begin, with_kwargs=True))
            handles.append(block.register_forward_hook(end))
        forward.all_hooked = bool(handles) and not watch.unhooked
    except Exception as error:
        watch.failed(error)
    try:
        yield
        watch.count_unhooked()
    finally:
        for handle in handles:
            handle.remove()


class _Hook:
    """A hook for one pass. Copied or saved with its module, it becomes one that does nothing."""

    def __init__(self, do: Callable, *arguments):
        self.do, self.arguments = do, arguments

    def __call__(self, *called_with):
        return self.do(*self.arguments, *called_with)

    def __reduce__(self):
        return _copied, ()


def _copied() -> Callable:
    return _nothing


def _nothing(*_called_with) -> None:
    pass


class _Watch:
    """What the hooks of a pass do. Their errors are logged once, and the render goes on.

    unhooked: how many blocks have no hook. began: whether any block has begun.
    """

    def __init__(self, forward: ForwardPass, diffusion_model):
        self.forward, self.model = forward, diffusion_model
        self.unhooked, self.began = 0, False
        self.options = None  # of the block that runs now, if it has any
        self.calls_before, self.calls_of_hooked = 0, 0  # of self-attention

    def begin(self, place: int | None, block, args: tuple, kwargs: dict):
        """A forward pre-hook. place: the block's, among the main ones."""
        if not self._is_of_this_pass():
            return None
        if place == 0:
            self._check_order((*args, *kwargs.values()))
        try:
            return self._begin(place, block, args, kwargs)
        except Exception as error:
            self.failed(error)
            return None

    def end(self, block, args: tuple, output) -> None:
        """A forward hook."""
        if not self._is_of_this_pass():
            return
        try:
            calls = self.forward.self_attention_calls - self.calls_before
            self.calls_of_hooked += calls
            if calls == 0:
                self._count(why_not_reached(self.forward, block, self.options))
            if self.options is not None:
                self.options.pop(BLOCK, None)  # the next block may have no hook
        except Exception as error:
            self.failed(error)

    def _is_of_this_pass(self) -> bool:
        return not torch.compiler.is_compiling() and CURRENT.forward is self.forward

    def _begin(self, place: int | None, block, args: tuple, kwargs: dict):
        forward = self.forward
        self.began, self.calls_before = True, forward.self_attention_calls
        forward.block = forward.block if place is None else place
        args, kwargs, self.options = with_options(forward, block, args, kwargs)
        if self.options is None:
            return None
        if place is not None or self.options.get("block_index") is None:
            self.options[BLOCK] = forward.block
        CURRENT.options = self.options
        if unwrapped(block) is not block:
            self.options[IN_PARTS] = CURRENT.in_parts = True
        return args, kwargs

    def _check_order(self, arguments: tuple) -> None:
        try:
            self.forward.check_order(self.model, arguments)
        except Exception as error:
            self.failed(error)

    def count_unhooked(self) -> None:
        """Count the blocks without a hook whose self-attention did not come, if any block ran."""
        calls = self.forward.self_attention_calls - self.calls_of_hooked
        if self.began:
            self.forward.block = None
            for _ in range(self.unhooked - calls):
                self._count(Why(Reason.NO_OPTIONS))

    def _count(self, why: Why) -> None:
        entry = CallEntry(step=self.forward.step, block=self.forward.block, dense=why)
        self.forward.override.reporter.end_call(entry)
        self.forward.blocks.add(entry.block)

    def failed(self, error: Exception) -> None:
        message = "Radial attention: hooks on the transformer blocks failed. %s"
        reporter = self.forward.override.reporter
        reporter.say_once("block hooks", logging.WARNING, message, error, exc_info=True)


def with_options(forward: ForwardPass, block, args: tuple, kwargs: dict):
    """A block's arguments with transformer_options among them, and these; None if it takes none.

    Where the pass's own options are missing, the block gets options with what brings its attention
    calls to us, and nothing else.
    """
    for value in args:
        if _belong_to(forward, value):
            return args, kwargs, value
    given = kwargs.get(OPTIONS)
    if _belong_to(forward, given):
        return args, kwargs, given
    position = None
    if OPTIONS not in kwargs:
        parameter, position = options_parameter(block)
        if parameter is None:
            return args, kwargs, None
        if position is not None and position >= len(args):
            position = None
        elif position is not None:
            given = args[position]
            if not isinstance(given, dict | None):
                return args, kwargs, None
    given = given or {}
    options = {**given, KEY: forward, SLOT: forward.override, PREVIOUS: hook_before_ours(given)}
    if position is None:
        return args, {**kwargs, OPTIONS: options}, options
    return (*args[:position], options, *args[position + 1 :]), kwargs, options


def _belong_to(forward: ForwardPass, value) -> bool:
    return isinstance(value, dict) and value.get(KEY) is forward


def options_parameter(block) -> tuple[inspect.Parameter | None, int | None]:
    """A block's parameter for transformer_options, and its position if it may be positional."""
    block = unwrapped(block)
    forward = vars(block).get("forward")
    if isinstance(forward, partial) and forward.func.__module__.startswith(NODES):
        forward = None  # our fused form of the class's own
    forward = getattr(block, "org_forward", forward)  # kept by ComfyUI's gradient checkpointing
    forward = forward or partial(type(block).forward, block)
    try:
        parameters = inspect.signature(forward, follow_wrapped=False).parameters
    except (TypeError, ValueError):
        return None, None
    parameter = parameters.get(OPTIONS)
    by_position = parameter is not None and parameter.kind in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    )
    return parameter, list(parameters).index(OPTIONS) if by_position else None


def why_not_reached(forward: ForwardPass, block, options: dict | None) -> Why:
    """Why the self-attention of a block that ran did not come to us, as far as can be seen."""
    if options is None:
        return Why(Reason.NO_OPTIONS)
    if options.get(SLOT) is not forward.override:
        return Why(Reason.ANOTHER_HOOK)
    for path, module in unwrapped(block).named_modules():
        replaced = vars(module).get("forward")
        origin = getattr(getattr(replaced, "func", replaced), "__module__", None)
        if origin and origin != type(module).__module__ and not origin.startswith(NODES):
            return Why(Reason.REPLACED, path or "the block", pack_name(origin))
    return Why(Reason.NO_HOOK)
