"""Builds classes smaller than their callers ask for."""

import contextlib
import importlib
import inspect


@contextlib.contextmanager
def built_with(sizes: dict[str, dict]):
    """Inside, each "a.module.Class" is built with these keyword arguments, whatever it is given."""
    with contextlib.ExitStack() as undo:
        for name, given in sizes.items():
            module, _, cls = name.rpartition(".")
            cls = getattr(importlib.import_module(module), cls)
            undo.callback(setattr, cls, "__init__", cls.__init__)
            cls.__init__ = _with(cls.__init__, given)
        yield


def _with(init, given: dict):
    names = list(inspect.signature(init).parameters)

    def built(*args, **kwargs):
        init(**{**dict(zip(names, args, strict=False)), **kwargs, **given})

    return built
