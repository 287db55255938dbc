"""Whether dense attention here runs in 8 bits: SageAttention 1 to 3, or comfy-kitchen's int8.

Nothing says so in ComfyUI. A person chooses an attention by a command-line option, which is then
the function of the call, or by a node, whose override is then on the hook. Both are known by their
names. An override is a closure around the function that it runs, so a few steps are walked from
there. What can't be told counts as exact.

The names are those of ComfyUI up to 0.39, of KJNodes and its copies, of sageattention 1.0.6 and
2.2, of sageattn3 and of comfy-kitchen 0.2.40.
"""

import dis
import re
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import NamedTuple

import torch

from .functions import closure, remembered

# On ComfyUI's hook: the functions of ComfyUI, and KJNodes' own of the same name.
FUNCTIONS = frozenset(
    {
        "attention_sage",
        "attention3_sage",
        "attention_comfy_kitchen_int8",
        "_attention_comfy_kitchen_int8_containers",
    }
)
# All of SageAttention's kernels take q and k in 8 bits or fewer.
KERNELS = re.compile(
    r"sageattn(_qk_int8_\w+|_varlen|_blackwell|3_blackwell)?"
    r"|int8_attention(_from_prequantized)?"
)
PACKAGES = ("sageattention", "sageattn3", "comfy_kitchen")
MOST = 50  # functions that are looked at in an override


class Known(NamedTuple):
    """in_8_bits: whether it may run an 8-bit kernel. passes_on: whether it, an override, may run
    the function that it is given.
    """

    in_8_bits: bool
    passes_on: bool


def runs_in_8_bits(func: Callable, previous: Callable | None) -> bool:
    """Whether a dense call runs in 8 bits. Takes a microsecond, from the second time on.

    func: ComfyUI's function for the call. previous: the override on the hook, if any.
    """
    if previous is None:
        return _look_at(func).in_8_bits
    known = _look_at(previous)
    return known.in_8_bits or (known.passes_on and _look_at(func).in_8_bits)


@remembered(Known(in_8_bits=False, passes_on=True))
def _look_at(function: Callable) -> Known:
    return Known(any(map(_is_8_bit, _reachable(function))), _passes_on(function))


def _is_8_bit(function) -> bool:
    name = getattr(function, "__name__", None)
    if not isinstance(name, str):
        return False
    if name in FUNCTIONS:
        return True
    package = str(getattr(function, "__module__", None)).partition(".")[0]
    if package in PACKAGES and KERNELS.fullmatch(name):
        return True
    return isinstance(function, FunctionType) and _names_a_kernel(function)


def _names_a_kernel(function: FunctionType) -> bool:
    """Whether its code names a kernel, or a function of FUNCTIONS, that is there."""
    names, variables = set(_names(function.__code__)), function.__globals__
    for name in names:
        if name not in FUNCTIONS and not KERNELS.fullmatch(name):
            continue
        if name in variables:
            if callable(variables[name]):  # None if the package, or this version of it, has none
                return True
        # Imported inside, or looked up in the package's module.
        elif any(each in PACKAGES or _is_package(variables.get(each)) for each in names):
            return True
    return False


def _is_package(value) -> bool:
    return isinstance(value, ModuleType) and value.__name__.partition(".")[0] in PACKAGES


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _reachable(function: Callable) -> Iterator[Callable]:
    """The function, and those that it wraps, is bound to, or closes over."""
    seen, queue = set(), deque([function])
    while queue and len(seen) < MOST:
        each = queue.popleft()
        if id(each) not in seen:
            seen.add(id(each))
            yield each
            queue.extend(filter(_may_be_attention, _parts(each)))


def _may_be_attention(value) -> bool:
    return callable(value) and not isinstance(value, type | ModuleType | torch.nn.Module)


def _parts(function: Callable) -> Iterator:
    if isinstance(function, partial):
        yield function.func
        yield from (*function.args, *function.keywords.values())
    elif isinstance(function, MethodType):
        yield from (function.__func__, function.__self__)
    elif isinstance(function, FunctionType):
        yield from vars(function).values()  # __wrapped__ is one
        yield from closure(function).values()
    else:
        yield from (getattr(function, "__dict__", None) or {}).values()
        yield type(function).__call__


def _passes_on(override: Callable) -> bool:
    """Whether an override uses its first argument. KJNodes' and ComfyUI's own don't."""
    position = 0
    for _ in range(MOST):  # a function may wrap itself
        if isinstance(override, FunctionType) and "__wrapped__" not in vars(override):
            break
        if isinstance(override, MethodType):
            override, position = override.__func__, position + 1
        elif isinstance(override, partial):
            override, position = override.func, position + len(override.args)
        elif isinstance(override, FunctionType):
            override = override.__wrapped__
        elif isinstance(type(override).__call__, FunctionType):
            override, position = type(override).__call__, position + 1
        else:
            return True
    else:
        return True
    code = override.__code__
    if position >= code.co_argcount:
        return True
    name = code.co_varnames[position]
    return any(
        each.opname.startswith(("LOAD_FAST", "LOAD_DEREF", "LOAD_CLOSURE"))
        and (each.argval == name or isinstance(each.argval, tuple) and name in each.argval)
        for each in dis.get_instructions(code)
    )
