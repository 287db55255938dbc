"""What the scripts of this folder use from benchmarks/: saving figures, and ComfyUI.

A script here has only its own folder on the path, so it says `from lab import record`.
"""

import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import record  # noqa: E402
from end_to_end_models import (  # noqa: E402
    PACK,
    override_of,
    radial,
    radial_node,
    start_comfyui,
    unload,
)

__all__ = [
    "override_of",
    "radial",
    "radial_node",
    "record",
    "start_comfyui",
    "unload",
    "video_models",
]


def video_models() -> dict:
    """The pack's catalog: name of a real model -> its size and its latents."""
    radial_node()  # loads the pack
    return importlib.import_module(f"{PACK}.nodes.families.catalog").VIDEO_MODELS
