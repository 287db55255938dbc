"""Checks of a node's inputs. The error names the input, what was expected and what came.

ComfyUI checks links and numbers before anything runs, but accepts NaN as a number, and any plain
value in place of a linked MODEL or LATENT.
"""

import reprlib
from collections.abc import Iterable

import torch

from ...radial_core.masks.radial import BLOCK_SIZES

PLAIN_TYPES = (int, float, str)  # tensors are rejected: comparing them yields a tensor

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60


def check_model(model, name: str = "model"):
    """Raises ValueError if it is not a MODEL."""
    if not hasattr(model, "add_wrapper_with_key"):
        raise ValueError(f"{name} must come from a model loader, got {short(model)}")


def check_latent(latent, name: str = "latent"):
    """The samples of a LATENT, a tensor or a nested one. Raises ValueError if there are none."""
    samples = latent.get("samples") if isinstance(latent, dict) else None
    if not (isinstance(samples, torch.Tensor) or getattr(samples, "is_nested", False)):
        raise ValueError(f"{name} must come from a sampler or an empty latent, got {short(latent)}")
    return samples


def check_number(name: str, value, low: float, high: float, whole: bool = False):
    """Raises ValueError unless low <= value <= high. NaN is not a number here."""
    types = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, types) or not low <= value <= high:
        kind = "a whole number" if whole else "a number"
        raise ValueError(f"{name} must be {kind} from {low} to {high}, got {short(value)}")


def check_choice(name: str, value, choices: Iterable):
    """Raises ValueError unless the value is one of the choices."""
    choices = list(choices)
    if not isinstance(value, PLAIN_TYPES) or value not in choices:
        listed = ", ".join(map(str, choices))
        raise ValueError(f"{name} must be one of {listed}, got {short(value)}")


def check_plain(**inputs):
    """Raises ValueError unless each is a number or a string: a wildcard link may bring anything."""
    for name, value in inputs.items():
        if not isinstance(value, PLAIN_TYPES):
            raise ValueError(f"{name} must be a plain value, got {short(value)}")


# Strings: the HTML nodes of the page take no numbers here. Older graphs and scripts have numbers.
BLOCK_SIZE_CHOICES = [str(size) for size in BLOCK_SIZES]


def why_not_block_size(value) -> str | None:
    """Why a value is not a block size; None if it is. ComfyUI's own check takes strings only."""
    if isinstance(value, PLAIN_TYPES) and value in (*BLOCK_SIZES, *BLOCK_SIZE_CHOICES):
        return None
    return f"block_size must be {' or '.join(BLOCK_SIZE_CHOICES)}, got {short(value)}"


def read_block_size(value) -> int:
    """The block size as an int. Raises ValueError if it is not one."""
    if reason := why_not_block_size(value):
        raise ValueError(reason)
    return int(value)


def short(value) -> str:
    """The repr of a value, shortened to less than a line."""
    return _short.repr(value)
