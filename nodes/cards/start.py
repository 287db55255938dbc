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
    setup = pipe.recv()
    sys.argv[1:] = []
    sys.path[:] = setup["path"]
    threading.Thread(target=_end_with, args=(setup["parent"],), daemon=True).start()
    logging.basicConfig(
        level=max(logging.WARNING, setup["log_level"]),
        format=f"[{setup['device']}] %(message)s",
    )
    _take_over(pipe)
    package = types.ModuleType(setup["pack"])
    package.__path__ = [setup["root"]]
    sys.modules[setup["pack"]] = package
    worker = importlib.import_module(".nodes.cards.worker", setup["pack"])
    worker.run(pipe, setup["device"], setup["rank"], setup["size"])


def _end_with(parent: int):
    """End if the process that started this one has ended, even while this one computes."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(0)


def _take_over(pipe: Connection):
    """ComfyUI's command line is that of its own process."""
    from comfy.cli_args import args

    vars(args).update(pipe.recv())


if __name__ == "__main__":
    main()
