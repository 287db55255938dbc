"""The group that cards exchange in: torch.distributed's NCCL on GPUs, its Gloo on the CPU.

It is a process group of its own. The default one is left to whoever else in the process wants it.
Cards meet by a file, and all they open is on the loopback interface: no port is taken from others.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from .gloo import Gloo

# NCCL's own watchdog measures from when work is queued, and a whole pass may be queued at once. So
# it is the last resort.
NCCL_SECONDS = 24 * 3600
# Read when a group is made. 0: a lost card never ends the process, as is NCCL's default.
KEEPS_PROCESS = {"TORCH_NCCL_ASYNC_ERROR_HANDLING": "0", "TORCH_NCCL_ENABLE_MONITORING": "0"}
LOOPBACK = "127.0.0.1"


class CardGroup:
    """Satisfies `exchange.Group`. rank: this card's, from 0. size: how many there are.

    What a collective reads and writes must be kept until it is waited for.
    """

    def __init__(self, backend, rank: int, size: int, store: dist.Store):
        self._backend, self.rank, self.size = backend, rank, size
        self._store = store  # lives as long as the group
        self._is_aborted = False

    def all_to_all(
        self, out: torch.Tensor, x: torch.Tensor, out_sizes: list[int], sizes: list[int]
    ) -> dist.Work:
        """See `exchange.Group`. Bytes go, so that any dtype can."""
        width = x.element_size()
        out_sizes, sizes = [n * width for n in out_sizes], [n * width for n in sizes]
        return self._backend.alltoall_base(
            _as_bytes(out), _as_bytes(x), out_sizes, sizes, dist.AllToAllOptions()
        )

    def broadcast(self, x: torch.Tensor) -> torch.Tensor:
        """Fill a contiguous tensor with that of the first card. Returns it."""
        if x.numel():
            options = dist.BroadcastOptions()
            options.rootRank = options.rootTensor = 0
            self._backend.broadcast([_as_bytes(x)], options).wait()
        return x

    def abort(self) -> None:
        """Free whoever in this process waits in the group. It is of no use after. Never raises."""
        if self._is_aborted:
            return
        self._is_aborted = True
        try:
            self._backend.abort()
        except Exception:  # it has failed already
            pass


def connect(
    file: Path,
    rank: int,
    size: int,
    device: torch.device,
    seconds: float,
    poll: Callable[[], None] = lambda: None,
) -> CardGroup:
    """Meet the other cards; all call it at once. Raises RuntimeError if some don't come.

    file: the same for all, in a folder that nobody else writes to, and new for each group. seconds:
    how long to wait for each other, also in a collective on the CPU. poll: called over and over
    until all are there; what it raises ends the wait.
    """
    store = dist.FileStore(str(file), size)
    store.set_timeout(timedelta(seconds=seconds))
    _meet(store, rank, size, seconds, poll)
    if device.type != "cuda":
        options = dist.ProcessGroupGloo._Options()
        options._timeout = timedelta(seconds=seconds)
        options._devices = [dist.ProcessGroupGloo.create_device(hostname=LOOPBACK)]
        backend = Gloo(dist.ProcessGroupGloo(store, rank, size, options))
        return CardGroup(backend, rank, size, store)
    with _environment(**KEEPS_PROCESS), _environment(only_if_unset=True, NCCL_SOCKET_IFNAME="lo"):
        options = dist.ProcessGroupNCCL.Options()
        options._timeout = timedelta(seconds=NCCL_SECONDS)
        backend = dist.ProcessGroupNCCL(store, rank, size, options)
        group = CardGroup(backend, rank, size, store)
        with torch.cuda.device(device):
            group.broadcast(torch.zeros(1, device=device))  # the communicator is made here
            torch.cuda.synchronize(device)
    return group


def _meet(store: dist.Store, rank: int, size: int, seconds: float, poll: Callable) -> None:
    """Wait until all are there. What comes after can't be broken off, so all should be alive."""
    store.set(f"rank {rank}", "here")
    end = time.monotonic() + seconds
    while not store.check([f"rank {each}" for each in range(size)]):
        poll()
        if time.monotonic() > end:
            raise RuntimeError(f"not all cards came within {seconds:.0f} s")
        time.sleep(0.002)


def _as_bytes(x: torch.Tensor) -> torch.Tensor:
    return x.view(-1).view(torch.uint8)


@contextmanager
def _environment(only_if_unset: bool = False, **variables: str) -> Iterator[None]:
    """Variables that libraries read, for a moment."""
    before = {name: os.environ.get(name) for name in variables}
    for name, value in variables.items():
        if before[name] is None or not only_if_unset:
            os.environ[name] = value
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
