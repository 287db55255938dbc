"""Saves a benchmark's figures with the machine and the versions."""

import contextlib
import json
import os
import platform
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
KERNEL_PACKAGES = (
    "triton",
    "triton-windows",
    "flash-attn-4",
    "nvidia-cutlass-dsl",
    "flashinfer-python",
    "nvidia-cudnn-frontend",
    "comfy-kitchen",
    "sageattention",
    "spas_sage_attn",
    "sparsevideo",
)
sys.path.insert(0, str(ROOT))


def save(name: str, cases: list[dict], **more):
    """Write results/NAME.json. `more`: further entries next to the cases."""
    script = Path(sys.argv[0]).resolve().relative_to(ROOT).as_posix()
    write(name, assembled(cases, f"python {script}{_arguments()}", **more))


def assembled(cases: list[dict], command: str, **more) -> dict:
    """What is written: the cases with the machine, the versions and the command."""
    start = {"machine": machine(), "versions": versions(), "command": command}
    return {**start, **more, "cases": cases}


def write(name: str, record: dict) -> Path:
    """Write results/NAME.json, and return its path in the repository."""
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(f"Written: {path.relative_to(ROOT)}")
    return path.relative_to(ROOT)


def gpu_name() -> str:
    """This machine's GPU as in file names: h100; cpu if there is none."""
    if not torch.cuda.is_available():
        return "cpu"
    full = torch.cuda.get_device_name()
    short = next((word for word in ("H100", "H200") if word in full), full)
    return short.lower().replace(" ", "-")


def versions() -> dict[str, str]:
    result = {"python": platform.python_version(), "torch": torch.__version__}
    if torch.cuda.is_available():
        result |= {"cuda": torch.version.cuda, "cudnn": str(torch.backends.cudnn.version())}
        for package in KERNEL_PACKAGES:
            with contextlib.suppress(PackageNotFoundError):
                result[package] = version(package)
    return result


def _arguments() -> str:
    return "".join(f" {shlex.quote(word)}" for word in sys.argv[1:])


def machine() -> str:
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = names[0].split(":")[1].strip() if names else name
    gpu = f"{torch.cuda.get_device_name()}; " if torch.cuda.is_available() else ""
    return f"{gpu}{name}, {os.cpu_count()} cores, {platform.system()}"
