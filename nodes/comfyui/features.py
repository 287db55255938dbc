"""Optional features: parts of this pack that need more of ComfyUI or torch than the patch does.

The patch needs ComfyUI's model patcher, its attention hook and its V3 API. Everything else is
imported through `load`, so that a name that moved in ComfyUI costs one feature and not the pack.
"""

import logging
from functools import cache
from importlib import import_module
from types import ModuleType

log = logging.getLogger("radial_attention")

_missing: dict[str, str] = {}


@cache
def load(feature: str, module: str) -> ModuleType | None:
    """Import a module of nodes/, such as ".training.prepare"; None, logged once, if that fails.

    feature: its name in the log.
    """
    try:
        name = module.removeprefix(".")
        nodes = __package__.rpartition(".")[0]
        return import_module(f".{name}", nodes)
    except Exception as error:
        note_missing(feature, error)
        return None


def note_missing(feature: str, error: Exception) -> None:
    """Remember, and log once, that a feature is not available."""
    if feature not in _missing:
        _missing[feature] = f"{type(error).__name__}: {error}"
        log.warning(
            "Radial Attention: no %s with this version of ComfyUI or torch. %s",
            feature,
            _missing[feature],
        )


def missing() -> dict[str, str]:
    """The features that were asked for and are not available, and why."""
    return dict(_missing)
