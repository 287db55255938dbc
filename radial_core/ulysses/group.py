"""The cards of one computer as a torch process group: NCCL between GPUs, Gloo between CPUs.

The group is made directly. torch's default group, of which a process has only one, stays free for
others. Nothing listens beyond this computer, and no port is chosen: processes meet at a file.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import torch
from torch.distributed import FileStore, ProcessGroupGloo

# torch reads these when a group of NCCL is made. With its own choices a lost card ends the process:
# its watchdog throws, or the monitor of the watchdog aborts.
LIVE_ON = {
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "2",  # give up the collective, not the process
    "TORCH_NCCL_BLOCKING_WAIT": "0",  # 1 would switch the above off
    "TORCH_NCCL_DESYNC_DEBUG": "0",
    "TORCH_NCCL_DUMP_ON_TIMEOUT": "0",
    "TORCH_NCCL_ENABLE_MONITORING": "0",
    "TORCH_NCCL_PROPAGATE_ERROR": "0",
    "TORCH_NCCL_RETHROW_CUDA_ERRORS": "0",
    # It would wait four times as long as this, a minute, before it frees the stream.
    "TORCH_NCCL_WAIT_TIMEOUT_DUMP_MILSEC": "0",
}
UNUSED_TAG = 2**20  # of Gloo's messages


class GroupFailed(RuntimeError):
    """A card was lost, took too long, or the group was aborted. The group is of no more use."""


class Begun:
    """A collective that has begun: exchange.Work."""

    def __init__(self, group: "CardGroup", work):
        self.group, self.work = group, work

    def wait(self) -> None:
        """On a GPU the current stream waits, on the CPU the caller. Raises GroupFailed."""
        with self.group.told():
            self.work.wait()


class CardGroup:
    """One card's side of the group: exchange.Group.

    Every collective has the time limit that `connect` was given. On the CPU `wait` raises
    GroupFailed when it is over. On a GPU the stream goes on, with wrong numbers, and the next
    collective raises once the GPU was synchronized.
    """

    def __init__(self, backend, rank: int, size: int, device: torch.device):
        self.rank, self.size = rank, size
        self._backend, self._device = backend, device
        self._aborted, self._aborting = False, threading.Lock()

    def all_to_all(
        self, out: torch.Tensor, x: torch.Tensor, out_sizes: list[int], sizes: list[int]
    ) -> Begun:
        """See exchange.Group. Raises GroupFailed if the group has failed already."""
        in_bytes = [[n * t.element_size() for n in s] for t, s in ((out, out_sizes), (x, sizes))]
        with self.told():
            return Begun(self, self._backend.alltoall_base(_bytes(out), _bytes(x), *in_bytes))

    def broadcast(self, x: torch.Tensor) -> None:
        """Fill x with the first card's. x: contiguous, of the same shape and type on all cards.

        Returns when x can be used, on a GPU in the current stream. Raises GroupFailed.
        """
        if x.numel():
            with self.told():
                Begun(self, self._backend.broadcast(_bytes(x), 0)).wait()

    def abort(self) -> None:
        """End the group. Whoever waits in a collective, in any thread or stream, is freed.

        Cards in other processes are to do so as well. It never raises, and a second time does
        nothing. This is also the way to end a group that is no longer needed.
        """
        with self._aborting:
            if self._aborted:
                return
            self._aborted = True
            if self._device.type == "cpu":
                self._close_connections()
            else:
                with suppress(Exception):
                    self._backend.abort()

    def _close_connections(self) -> None:
        """Gloo can't abort. But it closes a connection on which a time limit was passed."""
        for card in range(self.size):
            if card != self.rank:
                with suppress(Exception):
                    nothing = self._backend.recv([torch.empty(1)], card, UNUSED_TAG)
                    nothing.wait(timedelta(milliseconds=1))

    @contextmanager
    def told(self) -> Iterator[None]:
        """torch's errors become GroupFailed."""
        if self._aborted:
            raise GroupFailed("the group of cards was aborted")
        try:
            yield
        except (GroupFailed, torch.OutOfMemoryError):
            raise
        except RuntimeError as error:
            if self._aborted:
                raise GroupFailed("the group of cards was aborted") from error
            raise GroupFailed(f"the cards could not exchange: {error}") from error


def connect(
    store_file: Path,
    rank: int,
    size: int,
    device: torch.device,
    seconds: float,
    connecting: float | None = None,
    poll: Callable[[], None] = lambda: None,
) -> CardGroup:
    """Meet the other cards at a file, and connect to each.

    store_file: a new one in a folder that others can't write, the same for all cards. rank: this
    card's, from 0 to size - 1. device: this card's; of type cuda for NCCL, cpu for Gloo. seconds:
    the time limit for each collective. On a GPU it begins when the collective is queued, behind
    whatever else is. connecting: that for meeting and connecting; None for the same. poll: called
    over and over meanwhile; what it raises ends the wait.

    Raises GroupFailed if the cards don't meet or can't connect in time.
    """
    connecting = seconds if connecting is None else connecting
    limit, to_meet = timedelta(seconds=seconds), timedelta(seconds=connecting)
    try:
        store = FileStore(str(store_file), size)
        store.set_timeout(to_meet)
        store.set(f"card {rank}", "")
        cards = [f"card {card}" for card in range(size)]
        _until(lambda: store.check(cards), connecting, poll)
        make = _nccl if device.type == "cuda" else _gloo
        backend = _in_time(lambda: make(store, rank, size, device, limit), connecting, poll)
    except RuntimeError as error:
        raise GroupFailed(f"card {rank} of {size} could not connect: {error}") from error
    return CardGroup(backend, rank, size, device)


def _gloo(store, rank: int, size: int, _device, limit: timedelta) -> ProcessGroupGloo:
    options = ProcessGroupGloo._Options()
    options._devices = [ProcessGroupGloo.create_device(hostname="127.0.0.1")]
    options._timeout = limit
    return ProcessGroupGloo(store, rank, size, options)


def _nccl(store, rank: int, size: int, device: torch.device, limit: timedelta):
    from torch.distributed import ProcessGroupNCCL  # only on Linux with CUDA

    options = ProcessGroupNCCL.Options()
    options._timeout = limit
    options.global_ranks_in_group = list(range(size))
    options.group_name = "radial_attention"
    loopback = {"NCCL_SOCKET_IFNAME": os.environ.get("NCCL_SOCKET_IFNAME", "lo")}
    with _environment(LIVE_ON | loopback):
        backend = ProcessGroupNCCL(store, rank, size, options)
        backend.eager_connect_single_device(device)
    return backend


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Environment variables for a while."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _until(is_so: Callable[[], bool], seconds: float, poll: Callable[[], None]) -> None:
    """Raises RuntimeError if it is not so in time."""
    end = time.monotonic() + seconds
    while not is_so():
        poll()
        if time.monotonic() > end:
            raise RuntimeError(f"not connected within {seconds:g} s")
        time.sleep(0.002)


def _in_time(make: Callable, seconds: float, poll: Callable[[], None]):
    """What `make` returns. NCCL has no time limit of its own while it connects.

    Raises RuntimeError. Then the thread stays behind, until the lost card's process ends.
    """
    made, errors = [], []

    def run():
        try:
            made.append(make())
        except Exception as error:
            errors.append(error)

    threading.Thread(target=run, name="radial-attention-connect", daemon=True).start()
    _until(lambda: made or errors, seconds, poll)
    if errors:
        raise errors[0]
    return made[0]


def _bytes(x: torch.Tensor) -> torch.Tensor:
    """A view of a contiguous tensor: backends know bytes, but not every type of number.

    One number counts as contiguous whatever its strides, which bytes don't.
    """
    return x.detach().as_strided((x.numel(),), (1,)).view(torch.uint8)
