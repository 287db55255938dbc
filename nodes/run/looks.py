"""What adaptive lists were looked for in a run: how often, what it took, and what they keep."""

import math
import threading
from dataclasses import dataclass

import torch


@dataclass(eq=False)
class CallLooks:
    """The looks in one attention call. seconds: theirs, as far as they are known."""

    seconds: float = 0.0


class Looks:
    """All looks of a run. All but `of_call` and `end_call` is for one thread at a time."""

    def __init__(self):
        self.number = 0
        self.bytes = 0  # of the lists
        self.seconds = None  # None if none could be timed
        self._unread = []  # what the devices have not told yet: to ask would wait for them
        self._read = []  # pairs of shares
        self._calls = threading.local()  # CallLooks of a thread's current call

    def of_call(self) -> CallLooks:
        """Those of the call that this thread is in."""
        return vars(self._calls).setdefault("looks", CallLooks())

    def end_call(self) -> CallLooks | None:
        """The same; the call is over."""
        return vars(self._calls).pop("looks", None)

    def add(self, attended: torch.Tensor, size: int) -> None:
        """attended, size: see `Record.looked`."""
        self.number += 1
        self.bytes += size
        self._unread.append(attended)

    def took(self, seconds: float, of_call: CallLooks) -> None:
        of_call.seconds += seconds
        self.seconds = (self.seconds or 0.0) + seconds

    def read(self, wait: bool) -> dict:
        """As plain values. The shares of the attention are means over the looks.

        wait: for the devices; else only the shares that were read before count. None if none is.
        """
        if wait:
            unread, self._unread = self._unread, []
            shares = (attended.tolist() for attended in unread)
            self._read += (pair for pair in shares if all(map(math.isfinite, pair)))
        adaptive, radial = (
            math.fsum(pair[i] for pair in self._read) / len(self._read) if self._read else None
            for i in (0, 1)
        )
        return {
            "looks": self.number,
            "look_seconds": self.seconds,
            "attended": adaptive,
            "attended_by_radial": radial,
            "bytes": self.bytes,
        }
