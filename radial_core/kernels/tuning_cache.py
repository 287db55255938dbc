"""The configurations that were chosen, in one file for all kernels and GPUs: triton.json."""

import hashlib
import json
import logging
import os
import sys
from pathlib import Path

import triton

from ..call import Call
from ..devices import device_name

log = logging.getLogger("radial_attention")


def key(kernel: str, call: Call) -> str:
    """What a choice is kept under: with the GPU's name, and the versions that it holds for."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    version = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:8]
    kind = f"{call.dtype}, head_dim {call.head_dim}, blocks of {call.block_size}"
    name = device_name(call.device)
    return f"{kernel} on {name}, {kind}, triton {triton.__version__}, kernels {version}"


def read() -> dict:
    """Choices by `key`, in JSON's types; empty if there is no such file, or a broken one."""
    try:
        kept = json.loads(_file().read_text())
        return kept if isinstance(kept, dict) else {}
    except (OSError, ValueError, RuntimeError):  # the last where there is no home folder
        return {}


def write(name: str, choice: str | tuple) -> None:
    """Adds a choice to the file. Where that can't be written, it is made anew in each process."""
    try:
        path = _file()
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps({**read(), name: choice}, indent=1))
        part.replace(path)
    except (OSError, RuntimeError) as error:
        log.info("The configuration of a kernel could not be kept: %s", error)


def _file() -> Path:
    if chosen := os.environ.get("RADIAL_ATTENTION_CACHE"):
        return Path(chosen).expanduser() / "triton.json"
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "radial-attention" / "triton.json"
