"""The process of another card. ComfyUI's process runs this file by its path: see process.py.

What it needs to import, it is told over a pipe.
"""

import importlib
import logging
import os
import sys
import threading
import time
import types
from multiprocessing.connection import Connection


def main():
    pipe = Connection(int(sys.argv[1]))
    try:
        # Not ComfyUI's own number: a script may stand between, in the place of Python.
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
        setup = pipe.recv()
        run = _prepare(setup, pipe)
    except EOFError:  # ComfyUI ended meanwhile
        os._exit(0)
    except Exception as error:
        # A plain tuple, since the pack's own classes may be what can't be imported.
        pipe.send((0, (f"{type(error).__name__}: {error}", None)))
        os._exit(1)
    run(pipe, setup["device"], setup["rank"], setup["size"])


def _end_with(parent: int):
    """End if the process that started this one has ended, even while this one computes."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(0)


def _prepare(setup: dict, pipe: Connection):
    """Import what computes. -> its `run`."""
    sys.argv[1:] = []
    sys.path[:] = setup["path"]
    logging.basicConfig(
        level=max(logging.WARNING, setup["log_level"]),
        format=f"[{setup['device']}] %(message)s",
    )
    _take_over(pipe)
    package = types.ModuleType(setup["pack"])
    package.__path__ = [setup["root"]]
    sys.modules[setup["pack"]] = package
    return importlib.import_module(".nodes.cards.worker", setup["pack"]).run


def _take_over(pipe: Connection):
    """ComfyUI's command line is that of its own process."""
    from comfy.cli_args import args

    vars(args).update(pipe.recv())


if __name__ == "__main__":
    main()
