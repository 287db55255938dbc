"""The forward pass that a thread is in."""

import threading
from contextlib import contextmanager


class CurrentPass(threading.local):
    forward = None  # a `ForwardPass`
    options = None  # transformer_options of the pass, or of the block that runs now
    in_parts = False  # whether the model is compiled in parts: see compiled.py


CURRENT = CurrentPass()


@contextmanager
def in_pass(forward, options: dict):
    """Calls of this thread belong to this forward pass until it ends."""
    outer = dict(vars(CURRENT))
    vars(CURRENT).update(forward=forward, options=options, in_parts=False)
    try:
        yield
    finally:
        vars(CURRENT).clear()
        vars(CURRENT).update(outer)
