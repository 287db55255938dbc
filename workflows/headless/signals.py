"""Ctrl-C and similar signals: they unwind the program, but never while a server starts or stops."""

import contextlib
import signal
import sys
from collections.abc import Iterator

ENDING = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]


def end_on_signals():
    """Let SIGTERM and SIGHUP unwind the program as Ctrl-C does. nohup still ignores SIGHUP."""
    for number in ENDING[1:]:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, frame: sys.exit(128 + number))


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Delay these signals until the end of the block. Only in the main thread."""
    held = []
    before = {n: signal.signal(n, lambda number, frame: held.append(number)) for n in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in held:
            signal.raise_signal(number)
