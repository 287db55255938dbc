"""Parts of this pack that need more of ComfyUI, or of torch, than radial attention itself does.

The patch lives on ComfyUI's model patcher, its attention hook and its V3 API. Whatever else it can
do is imported through `load`, so that a name which ComfyUI moves costs that one feature.
"""

import logging
from functools import cache
from importlib import import_module
from types import ModuleType

log = logging.getLogger("radial_attention")

_missing: dict[str, str] = {}


@cache
def load(feature: str, module: str) -> ModuleType | None:
    """A module of nodes/, such as ".training.prepare"; None, logged once, if it can't be imported.

    feature: its name for people.
    """
    try:
        name = module.removeprefix(".")
        nodes = __package__.rpartition(".")[0]
        return import_module(f".{name}", nodes)
    except Exception as error:
        is_missing(feature, error)
        return None


def is_missing(feature: str, error: Exception) -> None:
    """Note, and log once, that a feature can't work here."""
    if feature not in _missing:
        _missing[feature] = f"{type(error).__name__}: {error}"
        log.warning(
            "Radial Attention: no %s with this version of ComfyUI or torch. %s",
            feature,
            _missing[feature],
        )


def missing() -> dict[str, str]:
    """The features that can't work here, as far as they were asked for, and why."""
    return dict(_missing)
