"""The forward pass that a thread is in."""

import threading
from contextlib import contextmanager


class Thread(threading.local):
    forward = None  # a `Forward`
    options = None  # transformer_options: of the pass, or of the block that runs
    in_parts = False  # whether the model is compiled in parts: see compiled.py


THREAD = Thread()


@contextmanager
def in_pass(forward, options: dict):
    """Calls of this thread belong to this forward pass until it ends."""
    outer = dict(vars(THREAD))
    vars(THREAD).update(forward=forward, options=options, in_parts=False)
    try:
        yield
    finally:
        vars(THREAD).clear()
        vars(THREAD).update(outer)
