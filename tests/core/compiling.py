"""Runs the scripts that compile kernels, in a process without Triton's interpreter."""

import os
import subprocess
import sys
from pathlib import Path


def output_of(script: str, *arguments: str) -> str:
    """What a script of this folder prints."""
    environment = {name: x for name, x in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, Path(__file__).with_name(script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
