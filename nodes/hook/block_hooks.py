"""Hooks on a model's transformer blocks, for the time of a forward pass.

A hook knows which block it is on, so attention calls can be told apart even where the model doesn't
say in which block they are: where a wrapper runs blocks and block_index stands still (First Block
Cache), where another pack calls blocks without transformer_options (NAG, MagCache, TeaCache), where
blocks are compiled one by one. The hooks also count the blocks whose attention never comes to us.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from ..comfyui.attention_functions import asks_the_hook, attention_of
from ..comfyui.option_keys import BLOCK, IN_PARTS, RUNS_VIDEO, SLOT
from ..comfyui.packs import is_in_comfyui, module_of, pack_name
from ..families.registry import unwrapped
from ..families.transformer_blocks import transformer_blocks
from ..run.reasons import Reason, Why
from ..run.record import CallEntry
from .block_options import NODES, with_options
from .current_pass import CURRENT
from .forward_pass import ForwardPass


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
            begin, end = Hook(watch.begin, place), Hook(watch.end)
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


class Hook:
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
            if calls == 0 and (self.options or {}).get(RUNS_VIDEO) is not False:
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


def why_not_reached(forward: ForwardPass, block, options: dict | None) -> Why:
    """Why the self-attention of a block that ran did not come to us, as far as can be seen."""
    if options is None:
        return Why(Reason.NO_OPTIONS)
    if options.get(SLOT) is not forward.override:
        return Why(Reason.ANOTHER_HOOK)
    for path, module in unwrapped(block).named_modules():
        origin = module_of(vars(module).get("forward"))
        if origin and origin != type(module).__module__ and not origin.startswith(NODES):
            return Why(Reason.REPLACED, path or "the block", pack_name(origin))
    function = attention_of(unwrapped(block))
    origin = module_of(function)
    if origin and not is_in_comfyui(origin) and not asks_the_hook(function):
        return Why(Reason.REPLACED, "optimized_attention", pack_name(origin))
    return Why(Reason.NO_HOOK)
