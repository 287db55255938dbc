"""Hooks on a model's transformer blocks, for the time of a forward pass.

A hook knows which block it is on. So a block's attention calls are told apart whatever the model
says or leaves out: blocks that are run from a wrapper while block_index stands still (First Block
Cache), blocks that another pack's forward calls without transformer_options (NAG, MagCache,
TeaCache), blocks that are compiled one by one. And a block whose attention never comes to us is
counted.
"""

import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch

from .calls import Forward
from .current_pass import THREAD
from .models import unwrapped
from .names import BLOCK, KEY, SLOT
from .run.record import Span
from .transformer_blocks import transformer_blocks

IN_PARTS = f"{KEY}_in_parts"  # in transformer_options: the block that has them is compiled
PREVIOUS = f"{KEY}_previous"  # in those that a block got from us: what its own had on the hook
OPTIONS = "transformer_options"

log = logging.getLogger("radial_attention")


@contextmanager
def hooked_blocks(forward: Forward, diffusion_model) -> Iterator[None]:
    """The blocks of a model have their hooks. Never raises: without them a pass is as it was."""
    handles = []
    try:
        for index, block in transformer_blocks(diffusion_model):
            if getattr(block, "_compiled_call_impl", None) is not None:
                continue  # hooks would be in the graph
            begin = partial(_before_block, forward, index)
            handles.append(block.register_forward_pre_hook(begin, with_kwargs=True))
            handles.append(block.register_forward_hook(partial(_after_block, forward)))
    except Exception:
        log.warning("Radial attention: not all blocks are watched", exc_info=True)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _before_block(forward: Forward, index: int | None, block, args: tuple, kwargs: dict):
    """A forward pre-hook. index: the block's place in the model; None for one beside the others."""
    return _safely(_begin, forward, index, block, args, kwargs)


def _after_block(forward: Forward, block, args: tuple, output) -> None:
    """A forward hook."""
    _safely(_end, forward, block)


def _safely(do: Callable, forward: Forward, *arguments):
    """What a hook does if the pass that runs is its own. An error is logged: the render goes on."""
    if torch.compiler.is_compiling() or THREAD.forward is not forward:  # a pass within ours
        return None
    try:
        return do(forward, *arguments)
    except Exception as error:
        message = "Radial attention: a hook on a transformer block failed. %s"
        tally = forward.override.tally
        tally.say_once("block hook", logging.WARNING, message, error, exc_info=True)
        return None


def _begin(forward: Forward, index: int | None, block, args: tuple, kwargs: dict):
    forward.block = forward.block if index is None else index
    forward.calls_before_block = forward.self_attention_calls
    options, changed = kwargs.get(OPTIONS), None
    if not _are_of(forward, options):
        position = position_of_options(block)
        if position is None:
            return None
        by_position = OPTIONS not in kwargs and position < len(args)
        options = args[position] if by_position else options
        if not _are_of(forward, options):
            options = _given_options(forward, options)
            if by_position:
                changed = (*args[:position], options, *args[position + 1 :]), kwargs
            else:
                changed = args, {**kwargs, OPTIONS: options}
    options[BLOCK] = forward.block
    THREAD.options = options
    if unwrapped(block) is not block:
        options[IN_PARTS] = THREAD.in_parts = True
    return changed


def _are_of(forward: Forward, options) -> bool:
    return isinstance(options, dict) and options.get(KEY) is forward


def _given_options(forward: Forward, theirs) -> dict:
    """What brings a block's attention calls to us; for all else the block has what it had."""
    theirs = theirs if isinstance(theirs, dict) else {}
    previous = theirs.get(SLOT)
    if previous is forward.override:  # of an earlier pass
        previous = theirs.get(PREVIOUS)
    return {**theirs, KEY: forward, SLOT: forward.override, PREVIOUS: previous}


def _end(forward: Forward, block) -> None:
    if forward.self_attention_calls == forward.calls_before_block:
        span = Span(step=forward.step, block=forward.block, dense=why_not_reached(block))
        forward.override.tally.end_call(span)


def position_of_options(block) -> int | None:
    """Where transformer_options stand among a block's arguments; None if it takes none."""
    block = unwrapped(block)
    theirs = vars(block).get("forward")
    if isinstance(theirs, partial) and theirs.func.__module__.startswith(__package__):
        theirs = None  # our fused form of the class's own
    forward = theirs or partial(type(block).forward, block)
    try:
        names = list(inspect.signature(forward).parameters)
    except (TypeError, ValueError):
        return None
    return names.index(OPTIONS) if OPTIONS in names else None


def why_not_reached(block) -> str:
    """Why the attention of a block that ran did not ask ComfyUI's hook, as far as can be seen."""
    block = unwrapped(block)
    if position_of_options(block) is None:
        return "the blocks take no transformer_options"
    for path, module in block.named_modules():
        theirs = vars(module).get("forward")
        origin = getattr(getattr(theirs, "func", theirs), "__module__", None)
        if origin and origin != type(module).__module__ and not origin.startswith(__package__):
            pack = origin.replace("\\", "/").split("/")[-1]
            return f"{path or 'the block'} is replaced by {pack}, and asks no attention hook"
    return "the blocks' attention asks no attention hook"
