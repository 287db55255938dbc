"""Which kernel, and which tiles, on the GPU at hand: measured at first use, and kept on disk."""

import hashlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch
import triton

from .. import failures
from ..backends.contract import EXACT
from ..call import Call, capability, is_out_of_memory
from ..layout import VideoLayout
from ..masks.radial import RadialPattern
from ..plan import make_plan
from ..proof import fault_of
from .portable_launch import Tiles

# 80 KiB of shared memory for head_dim 128: fits every GPU from Ampere on.
SAFE = Tiles(64, 64, 4, 2)
CANDIDATES = {
    64: (SAFE, Tiles(64, 64, 4, 3), Tiles(64, 32, 4, 3)),
    128: (SAFE, Tiles(128, 64, 4, 2), Tiles(128, 64, 4, 3), Tiles(128, 64, 8, 2)),
}
HOPPER = "hopper"

# About half a TFLOP: 1 ms on an H100, 20 ms on the smallest cards.
LAYOUT, HEADS, PATTERN_DECAY = VideoLayout(16, 32, 32), 8, 0.2
RUNS = 3
TUNING = "tuning of triton"

log = logging.getLogger("radial_attention")

_chosen: dict[tuple, str | Tiles] = {}
_lock = threading.Lock()


def best_config(
    device: torch.device, dtype: torch.dtype, head_dim: int, block_size: int, run: Callable
) -> str | Tiles:
    """HOPPER, or the tiles of the portable kernel. Takes some seconds, once for a GPU.

    run: `run` of a backend (backends/contract.py) that also takes a `config`: what is measured.
    Where measuring fails, SAFE serves for the rest of the run.
    """
    key = (device, dtype, head_dim, block_size)
    if key not in _chosen:
        with _lock:
            if key not in _chosen:
                return _choose(key, run)
    return _chosen[key]


def _choose(key: tuple, run: Callable) -> str | Tiles:
    call = Call(*key)
    if failures.earlier(TUNING, call):
        return SAFE
    try:
        _chosen[key] = _load_or_measure(*key, run)
    except Exception as error:
        if failures.is_new(TUNING, call, error):
            log.warning("Triton kernel not tuned, using a safe configuration: %s", error)
        failures.turn_off(TUNING, call, f"{TUNING} failed: {error}", is_out_of_memory(error))
        return SAFE
    failures.worked(TUNING, call)
    return _chosen[key]


def candidates(device: torch.device, head_dim: int, block_size: int) -> tuple[str | Tiles, ...]:
    """What is worth measuring on a device."""
    own = capability(device)[0] == 9 and block_size == 128 and head_dim in (64, 128)
    return (HOPPER,) * own + CANDIDATES[block_size]


def _load_or_measure(device, dtype, head_dim, block_size, run) -> str | Tiles:
    name = _key(device, dtype, head_dim, block_size)
    options = candidates(device, head_dim, block_size)
    kept = _read().get(name)
    kept = tuple(kept) if isinstance(kept, list) else kept
    if kept in options:
        return next(option for option in options if option == kept)
    start = time.perf_counter()
    if HOPPER in options and _works(HOPPER, Call(device, dtype, head_dim, block_size), run):
        best = HOPPER  # 1.5 times as fast as the others, wherever it runs
    else:
        tiles = [option for option in options if option != HOPPER]
        times = _measure(tiles, device, dtype, head_dim, block_size, run)
        if not times:
            raise RuntimeError("no configuration works on this GPU")
        best = min(times, key=times.get)
        log.debug("Milliseconds: %s", times)
    seconds = time.perf_counter() - start
    log.info("Triton kernel for %s chosen in %.1f s: %s", name, seconds, best)
    _write(name, best)
    return best


def _measure(options, device, dtype, head_dim, block_size, run) -> dict[Tiles, float]:
    """Milliseconds by option; without those that fail or are wrong."""
    call = Call(device, dtype, head_dim, block_size)
    with torch.inference_mode(False), torch.no_grad(), torch.cuda.device(device):
        plan = make_plan(RadialPattern(PATTERN_DECAY, 1, block_size), LAYOUT, device)
        shape = (3, 1, LAYOUT.tokens, HEADS, head_dim)
        random = torch.Generator(device).manual_seed(0)
        q, k, v = torch.randn(shape, dtype=dtype, device=device, generator=random).unbind(0)
        torch.cuda.synchronize()
        given = (q, k, v, plan, head_dim**-0.5, False)
        runs = {o: partial(run, *given, config=o) for o in options}
        with ThreadPoolExecutor() as threads:
            for call_once in runs.values():
                threads.submit(_compile, call_once, device)
        return {o: _milliseconds(runs[o]) for o in options if _works(o, call, run)}


def _compile(call_once, device: torch.device) -> None:
    """For a thread: compiling takes a second or two. What fails, fails again where it counts."""
    with torch.no_grad(), torch.cuda.device(device):
        call_once()
        torch.cuda.synchronize()


def _works(option: str | Tiles, call: Call, run: Callable) -> bool:
    try:
        fault = fault_of(partial(run, config=option), call, EXACT)
    except Exception as error:
        if is_out_of_memory(error):  # which says nothing of the kernel
            raise
        fault = f"{type(error).__name__}: {error}"
    if fault is not None:
        log.info("Triton kernel: %s does not work on %s: %s", option, call, fault)
    return fault is None


def _milliseconds(call_once) -> float:
    call_once()
    times = []
    for _ in range(RUNS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call_once()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return min(times)


def _key(device, dtype, head_dim, block_size) -> str:
    sources = sorted(Path(__file__).parent.glob("*.py"))
    version = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:8]
    kind = f"{dtype}, head_dim {head_dim}, blocks of {block_size}"
    name = torch.cuda.get_device_name(device)
    return f"{name}, {kind}, triton {triton.__version__}, kernels {version}"


def _file() -> Path:
    if chosen := os.environ.get("RADIAL_ATTENTION_CACHE"):
        return Path(chosen).expanduser() / "triton.json"
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "radial-attention" / "triton.json"


def _read() -> dict:
    try:
        kept = json.loads(_file().read_text())
        return kept if isinstance(kept, dict) else {}
    except (OSError, ValueError, RuntimeError):  # the last where there is no home folder
        return {}


def _write(name: str, best: str | Tiles) -> None:
    try:
        path = _file()
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps({**_read(), name: best}, indent=1))
        part.replace(path)
    except (OSError, RuntimeError) as error:
        log.info("Triton kernel: its configuration could not be kept: %s", error)
