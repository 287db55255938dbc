"""Which kernel, and which tiles, on the GPU at hand: measured at first use, and kept on disk."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import torch

from .. import failures
from ..backends.contract import EXACT, Accuracy
from ..backends.triton_int8 import ACCURACY as INT8_ACCURACY
from ..call import Call, capability, is_out_of_memory
from ..devices import device_module
from ..layout import VideoLayout
from ..masks.radial import RadialPattern
from ..plan import make_plan
from ..proof import fault_of
from . import tuning_cache
from .launch import HOPPER
from .portable_launch import Tiles

# 80 KiB of shared memory for head_dim 128 in 16 bits: fits every GPU from Ampere on.
SAFE = Tiles(64, 64, 4, 2)


@dataclass(frozen=True)
class Kernel:
    """A kernel that is tuned by itself.

    name: that of its backend. candidates: the tiles worth measuring, by block size. accuracy: what
    each of them is held to. elsewhere: more tiles, for GPUs that are not NVIDIA's. safe: the tiles
    that run where measuring fails. Each backend has Hopper's own kernel too.
    """

    name: str
    candidates: Mapping[int, tuple[Tiles, ...]]
    accuracy: Accuracy
    elsewhere: tuple[Tiles, ...] = ()
    safe: Tiles = SAFE

    @property
    def tuning(self) -> str:
        """What fails, where measuring fails."""
        return f"tuning of {self.name}"


TRITON = Kernel(
    "triton",
    {
        64: (SAFE, Tiles(64, 64, 4, 3), Tiles(64, 32, 4, 3)),
        128: (SAFE, Tiles(128, 64, 4, 2), Tiles(128, 64, 4, 3), Tiles(128, 64, 8, 2)),
    },
    EXACT,
    # Radeons have few registers: by the compiler's word, these spill none on RDNA 4, and the first
    # next to none on RDNA 3, where the others spill hundreds.
    (Tiles(64, 16, 4, 1), Tiles(64, 32, 4, 1), Tiles(128, 32, 8, 1), Tiles(128, 32, 8, 2)),
)
INT8 = Kernel(
    "triton_int8",
    {
        64: (SAFE, Tiles(64, 64, 4, 3), Tiles(64, 64, 4, 5)),
        128: (
            SAFE,
            Tiles(64, 128, 4, 2),
            Tiles(64, 128, 4, 3),
            Tiles(64, 128, 4, 5),
            Tiles(128, 128, 8, 3),
            Tiles(128, 128, 8, 5),
        ),
    },
    INT8_ACCURACY,
    # As above: next to none on RDNA 4 and 3 (the second: 30 registers on RDNA 3).
    (Tiles(64, 64, 8, 1), Tiles(128, 64, 8, 1)),
)

# About half a TFLOP: 1 ms on an H100, 20 ms on the smallest cards.
LAYOUT, HEADS, PATTERN_DECAY = VideoLayout(16, 32, 32), 8, 0.2
RUNS = 3

log = logging.getLogger("radial_attention")

_chosen: dict[tuple, str | Tiles] = {}
_lock = threading.Lock()


def best_config(
    kernel: Kernel,
    device: torch.device,
    dtype: torch.dtype,
    head_dim: int,
    block_size: int,
    run: Callable,
) -> str | Tiles:
    """HOPPER, or the tiles of the portable kernel. Takes some seconds, once for a GPU.

    run: `run` of a backend (backends/contract.py) that also takes a `config`: what is measured.
    Where measuring fails, the kernel's safe tiles serve for the rest of the run.
    """
    key = (kernel.name, device, dtype, head_dim, block_size)
    if key not in _chosen:
        with _lock:
            if key not in _chosen:
                return _choose(key, kernel, Call(device, dtype, head_dim, block_size), run)
    return _chosen[key]


def _choose(key: tuple, kernel: Kernel, call: Call, run: Callable) -> str | Tiles:
    if failures.earlier(kernel.tuning, call):
        return kernel.safe
    try:
        _chosen[key] = _load_or_measure(kernel, call, run)
    except Exception as error:
        if failures.is_new(kernel.tuning, call, error):
            log.warning("Kernel %s not tuned, using a safe configuration: %s", kernel.name, error)
        reason = f"{kernel.tuning} failed: {error}"
        failures.turn_off(kernel.tuning, call, reason, is_out_of_memory(error))
        return kernel.safe
    failures.worked(kernel.tuning, call)
    return _chosen[key]


def candidates(kernel: Kernel, call: Call) -> tuple[str | Tiles, ...]:
    """What is worth measuring for such calls."""
    major, tiles = capability(call.device)[0], kernel.candidates[call.block_size]
    if major == 0:
        return tiles + tuple(each for each in kernel.elsewhere if each.block_m <= call.block_size)
    own = major == 9 and call.block_size == 128 and call.head_dim in (64, 128)
    return (HOPPER,) * own + tiles


def _load_or_measure(kernel: Kernel, call: Call, run: Callable) -> str | Tiles:
    options = candidates(kernel, call)
    name = tuning_cache.key(kernel.name, call)
    kept = tuning_cache.read().get(name)
    kept = tuple(kept) if isinstance(kept, list) else kept
    if kept in options:
        return next(option for option in options if option == kept)
    start = time.perf_counter()
    if HOPPER in options and _works(HOPPER, kernel, call, run):
        best = HOPPER  # 1.3 to 1.5 times as fast as the others, wherever it runs
    else:
        tiles = [option for option in options if option != HOPPER]
        times = _measure(tiles, kernel, call, run)
        if not times:
            raise RuntimeError("no configuration works on this GPU")
        best = min(times, key=times.get)
        log.debug("Milliseconds: %s", times)
    seconds = time.perf_counter() - start
    log.info("Kernel for %s chosen in %.1f s: %s", name, seconds, best)
    tuning_cache.write(name, best)
    return best


def _measure(options, kernel: Kernel, call: Call, run: Callable) -> dict[Tiles, float]:
    """Milliseconds by option; without those that fail or are wrong."""
    device, module = call.device, device_module(call.device)
    with torch.inference_mode(False), torch.no_grad(), module.device(device):
        plan = make_plan(RadialPattern(PATTERN_DECAY, 1, call.block_size), LAYOUT, device)
        shape = (3, 1, LAYOUT.tokens, HEADS, call.head_dim)
        random = torch.Generator(device).manual_seed(0)
        q, k, v = torch.randn(shape, dtype=call.dtype, device=device, generator=random).unbind(0)
        module.synchronize()
        given = (q, k, v, plan, call.head_dim**-0.5, False)
        runs = {o: partial(run, *given, config=o) for o in options}
        with ThreadPoolExecutor() as threads:
            for call_once in runs.values():
                threads.submit(_compile, call_once, device)
        return {o: _milliseconds(runs[o], module) for o in options if _works(o, kernel, call, run)}


def _compile(call_once, device: torch.device) -> None:
    """For a thread: compiling takes a second or two. What fails, fails again where it counts."""
    with torch.no_grad(), device_module(device).device(device):
        call_once()
        device_module(device).synchronize()


def _works(option: str | Tiles, kernel: Kernel, call: Call, run: Callable) -> bool:
    try:
        fault = fault_of(partial(run, config=option), call, kernel.accuracy)
    except Exception as error:
        if is_out_of_memory(error):  # which says nothing of the kernel
            raise
        fault = f"{type(error).__name__}: {error}"
    if fault is not None:
        log.info("Kernel %s: %s does not work on %s: %s", kernel.name, option, call, fault)
    return fault is None


def _milliseconds(call_once, module) -> float:
    """module: the `device_module` of the current device."""
    call_once()
    times = []
    for _ in range(RUNS):
        start, end = (module.Event(enable_timing=True) for _ in range(2))
        start.record()
        call_once()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return min(times)
