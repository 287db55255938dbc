"""Gives transformer_options to blocks that another pack calls without them."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from types import FunctionType, MethodType

from ..comfyui.option_keys import KEY, PREVIOUS, SLOT
from ..families.registry import unwrapped
from .forward_pass import ForwardPass, hook_before_ours

OPTIONS = "transformer_options"
NODES = __package__.rpartition(".")[0]  # all rooms of this pack: the fused blocks are in another
Parameter = inspect.Parameter


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
        parameter, position = options_parameter(block, len(args))
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


def options_parameter(block, positional: int = 0) -> tuple[Parameter | None, int | None]:
    """A block's parameter for transformer_options, and its position if it may be positional.

    **kwargs count if they go on to a forward that has the parameter. What else a block does with
    arguments that it does not name can't be known: it may refuse them. positional: how many
    arguments it is called with by position. Where those go on too, the options may be among them.
    """
    block = unwrapped(block)
    forward = vars(block).get("forward")
    if isinstance(forward, partial) and forward.func.__module__.startswith(NODES):
        forward = None  # our fused form of the class's own
    forward = getattr(block, "org_forward", forward)  # kept by ComfyUI's gradient checkpointing
    forward = forward or MethodType(type(block).forward, block)
    try:
        return _options_parameter(block, forward, positional)
    except (TypeError, ValueError):  # no signature, or a class that is not the block's
        return None, None


def _options_parameter(block, forward: Callable, positional: int):
    parameters = inspect.signature(forward, follow_wrapped=False).parameters
    if OPTIONS in parameters:
        return parameters[OPTIONS], _position(parameters)
    of_kind = {each.kind: each for each in parameters.values()}
    below = _below(block, forward) if Parameter.VAR_KEYWORD in of_kind else None
    if below is None:
        return None, None
    hidden, position = _options_parameter(block, below, positional)
    among_them = position is not None and positional > position
    if hidden is None or (Parameter.VAR_POSITIONAL in of_kind and among_them):
        return None, None
    return of_kind[Parameter.VAR_KEYWORD], None


def _position(parameters: Mapping[str, Parameter]) -> int | None:
    by_name_only = parameters[OPTIONS].kind is Parameter.KEYWORD_ONLY
    return None if by_name_only else list(parameters).index(OPTIONS)


def _below(block, forward: Callable) -> Callable | None:
    """The forward to which one hands its **kwargs on, as far as it says: the one that it wraps or
    keeps, or that of the class it derives from."""
    function = getattr(forward, "func", forward)
    function = getattr(function, "__func__", function)
    wrapped = getattr(function, "__wrapped__", None)
    if wrapped is not None:
        is_unbound = next(iter(inspect.signature(wrapped).parameters), None) == "self"
        return MethodType(wrapped, block) if is_unbound else wrapped
    if not isinstance(function, FunctionType):
        return None
    cells = inspect.getclosurevars(function).nonlocals
    for kept in cells.values():
        if isinstance(kept, MethodType) and kept.__self__ is block and kept.__name__ == "forward":
            return kept
    if "__class__" in cells and {"super", "forward"} <= set(function.__code__.co_names):
        return super(cells["__class__"], block).forward
    return None
