"""Writes a benchmark's figures down with the machine and versions that made them."""

import json
import os
import platform
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
sys.path.insert(0, str(ROOT))


def save(name: str, cases: list[dict], **more):
    """Write results/NAME.json; `more` goes beside the cases."""
    record = {
        "machine": _machine(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "command": f"python {Path(sys.argv[0]).resolve().relative_to(ROOT)}",
        **more,
        "cases": cases,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(record, indent=2) + "\n")
    print(f"Written: {path.relative_to(ROOT)}")


def _machine() -> str:
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = names[0].split(":")[1].strip() if names else name
    return f"{name}, {os.cpu_count()} cores, {platform.system()}"
