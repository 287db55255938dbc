"""What the scripts of this folder use from benchmarks/: saving figures, and ComfyUI.

A script here has only its own folder on the path, so it says `from lab import record`.
"""

import argparse
import importlib
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

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
    "in_time",
    "node_presets",
    "override_of",
    "parser",
    "radial",
    "radial_node",
    "record",
    "start_comfyui",
    "unload",
    "video_models",
]

T = TypeVar("T")


def parser(about: str, checkpoint: Path, seconds: float, what: str) -> argparse.ArgumentParser:
    """The options of a script that measures a checkpoint until time is up.

    about: its docstring. checkpoint, seconds: by default. what: as `in_time` has it.
    """
    made = argparse.ArgumentParser(description=about.split("\n")[0])
    made.add_argument("--comfyui", type=Path, required=True, help="ComfyUI's folder")
    made.add_argument("--checkpoint", type=Path, default=checkpoint)
    made.add_argument(
        "--seconds", type=float, default=seconds, help=f"start no more {what} after this time"
    )
    made.add_argument("--tiny", action="store_true", help="a small case for a CPU")
    return made


def in_time(every: Sequence[T], end: float, what: str) -> Iterator[T]:
    """One after another, until time is up; then how many were left is said.

    end: as time.perf_counter() has it. what: a word for several of them, as "rows".
    """
    for number, each in enumerate(every):
        if time.perf_counter() > end:
            print(f"Time is up: {len(every) - number} {what} were not run", flush=True)
            return
        yield each


def node_presets() -> dict:
    """The presets of the patch node: name -> NodePreset."""
    radial_node()  # loads the pack
    return importlib.import_module(f"{PACK}.nodes.inputs.presets").PRESETS


def video_models() -> dict:
    """The pack's catalog: name of a real model -> its size and its latents."""
    radial_node()  # loads the pack
    return importlib.import_module(f"{PACK}.nodes.families.catalog").VIDEO_MODELS
