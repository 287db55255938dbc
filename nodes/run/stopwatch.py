"""How long work takes on its device, without waiting for it."""

import logging
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch

log = logging.getLogger("radial_attention")


@dataclass(frozen=True)
class Mark:
    """A moment on a device. event: of CUDA; None on the CPU, where `time` is it, in seconds."""

    device: torch.device
    event: torch.cuda.Event | None = None
    time: float = 0.0


class Stopwatch:
    """Times spans of work, on several devices and threads at once; never raises.

    On a GPU two CUDA events are put into the stream around the work. They are polled, never waited
    on, and then reused. Of other devices only the CPU is timed: the others work while Python runs.
    """

    def __init__(self, add: Callable[[Hashable, float], None]):
        """add: gets the key and the seconds of each span, once they are known."""
        self._add = add
        self._pending = defaultdict(deque)  # device -> (key, start, end), in the order they end
        self._spare = defaultdict(list)  # device -> events
        self._collecting = threading.Lock()
        self._works = True

    def start(self, device: torch.device) -> Mark | None:
        """The start of a span; None if it can't be timed."""
        return self._safely(self._mark, device)

    def stop(self, mark: Mark | None, key: Hashable) -> None:
        """The end of a span, in the thread and on the stream that it started on."""
        if mark is not None:
            self._safely(self._stop, mark, key)

    def collect(self, wait: bool = False) -> None:
        """Read what is over. wait: until all is."""
        self._safely(self._collect, wait)

    def _safely(self, function: Callable, *arguments):
        if not self._works:
            return None
        try:
            return function(*arguments)
        except Exception as error:
            self._works = False
            log.warning("No more times of this run. %s: %s", type(error).__name__, error)
            return None

    def _mark(self, device: torch.device) -> Mark | None:
        if device.type == "cpu":
            return Mark(device, time=time.perf_counter())
        # Events in a CUDA graph have no times, and to ask for others would end its capture.
        if device.type != "cuda" or torch.cuda.is_current_stream_capturing():
            return None
        try:
            event = self._spare[device].pop()
        except IndexError:
            event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(device))
        return Mark(device, event)

    def _stop(self, mark: Mark, key: Hashable) -> None:
        end = self._mark(mark.device)
        if end is None:
            return
        if end.event is None:
            self._add(key, end.time - mark.time)
        else:
            self._pending[mark.device].append((key, mark.event, end.event))

    def _collect(self, wait: bool) -> None:
        if not self._collecting.acquire(blocking=wait):
            return  # another thread does it
        try:
            for device, spans in list(self._pending.items()):
                if not wait and torch.cuda.is_current_stream_capturing():
                    return
                while spans and (wait or spans[0][2].query()):
                    key, start, end = spans.popleft()
                    if wait:
                        end.synchronize()
                    self._add(key, start.elapsed_time(end) / 1000)
                    self._spare[device] += (start, end)
        finally:
            self._collecting.release()
