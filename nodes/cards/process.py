"""A process of another card, seen from ComfyUI's."""

import logging
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import torch
from comfy.cli_args import args

from .cargo import PACK

log = logging.getLogger("radial_attention")

START = Path(__file__).with_name("start.py")
ROOT = Path(__file__).parents[2]


class Process:
    """Runs start.py. It ends when this process does, however that ends: its pipe closes then."""

    def __init__(self, device: torch.device, rank: int, size: int):
        self.device, self.rank = device, rank
        self.pipe, theirs = multiprocessing.Pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, str(START), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl+C is for ComfyUI, which then ends this one
            )
        finally:
            theirs.close()
        try:
            self.pipe.send(_setup(device, rank, size))
            self.pipe.send(vars(args))  # after the path, since ComfyUI's own types are in it
        except BrokenPipeError:
            pass  # it has ended, which its pipe tells whoever reads it too

    @property
    def pid(self) -> int:
        return self._process.pid

    def how_it_ended(self) -> str:
        """For people. It has ended, or is about to."""
        try:
            code = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return "it closed its pipe"
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def kill(self) -> None:
        """It is gone when this returns. Its pipe stays open: other threads may be in it."""
        self._process.kill()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            log.warning("Radial Multi-GPU: process %d of %s doesn't end", self.pid, self.device)


def _setup(device: torch.device, rank: int, size: int) -> dict:
    """What a process needs to know before it can import anything of ours."""
    return {
        "path": [entry or os.getcwd() for entry in sys.path],
        "pack": PACK,
        "root": str(ROOT),
        "parent": os.getpid(),
        "log_level": logging.getLogger().getEffectiveLevel(),
        "device": str(device),
        "rank": rank,
        "size": size,
    }
