"""The fingerprint of a block: two blocks with the same one compute the same, except for weights.

It consists of the classes of the block and its parts, the attributes and functions that their code
names, and the shapes of their weights. It changes when another pack replaces a part or one of
ComfyUI's functions, or changes a setting.
"""

import types
import weakref
from collections.abc import Iterator
from functools import lru_cache

import torch

PLAIN = (type(None), bool, int, float, str, torch.dtype)
DEPTH = 2  # the functions that a forward calls, and the functions that those call
CLASSES = 256  # cached; ComfyUI makes new classes for each quantized model


def fingerprint(module: torch.nn.Module, seen: dict) -> tuple:
    """Hashable, and keeps no model alive. seen: a cache of the code of classes, for one pass."""
    code, parts = {}, []
    for name, part in module.named_modules():
        cls = type(part)
        if cls not in seen:
            seen[cls] = _code_of(cls)
        code[cls], names = seen[cls]
        parts.append((name, *_traits(part, names)))
    return tuple(code.values()), tuple(parts)


def _traits(part, names: frozenset[str]) -> Iterator:
    """names: the names in the code of its class; its other attributes change nothing."""
    yield _identity(type(part))
    for name, value in vars(part).items():
        if name in names and name != "forward":  # a proof ignores another pack's forward
            yield name, _plain(value)
    for name, weight in part._parameters.items():
        yield name, weight is not None and (weight.shape, weight.dtype)


def _plain(value):
    if isinstance(value, PLAIN):
        return type(value), value
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    return _identity(value) if callable(value) else type(value)


def _identity(value):
    """Stands for an object by its identity, without keeping it alive."""
    try:
        return weakref.ref(value)
    except TypeError:
        return type(value)


def _code_of(cls: type) -> tuple[tuple, frozenset[str]]:
    """The current functions of a class and those that they call; all names in their code."""
    methods = cls.forward, *(space.get(name) for space, name in _methods_at(cls))
    names, called = _named_by(methods)
    functions = *methods, *(space.get(name) for space, name in called)
    return (_identity(cls), *map(_identity, functions)), names


@lru_cache(CLASSES)
def _methods_at(cls: type) -> tuple:
    """(namespace, name) of the methods that a class and its bases define, up to torch's Module."""
    bases = [base for base in cls.__mro__ if base not in (torch.nn.Module, object)]
    return tuple(
        (vars(base), name)
        for base in bases
        for name, value in vars(base).items()
        if isinstance(value, types.FunctionType) and name != "__init__"
    )


@lru_cache(CLASSES)
def _named_by(methods: tuple) -> tuple[frozenset[str], tuple]:
    """All names in the code of these methods; (namespace, name) of the functions they call."""
    methods = [each for each in methods if isinstance(each, types.FunctionType)]
    names = frozenset(name for each in methods for name in _names_in(each.__code__))
    called = {(id(space), name): (space, name) for each in methods for space, name in _called(each)}
    return names, tuple(called.values())


def _called(function: types.FunctionType, depth: int = DEPTH) -> Iterator[tuple]:
    """(namespace, name) of the functions and classes that a function names."""
    names, spaces = tuple(_names_in(function.__code__)), [function.__globals__]
    for space in spaces:  # which grows: a.b.c() names the modules a and a.b
        for name in names:
            value = space.get(name)
            if isinstance(value, types.ModuleType):
                if not any(vars(value) is each for each in spaces):
                    spaces.append(vars(value))
            elif callable(value):
                yield space, name
                if isinstance(value, types.FunctionType) and depth > 1:
                    yield from _called(value, depth - 1)


def _names_in(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names_in(constant)
