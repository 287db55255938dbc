import os
import sys
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS / "core")]

from in_comfyui import model, pack  # noqa: E402, F401


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            item.add_marker(pytest.mark.skip(reason="no CUDA GPU"))


def pytest_terminal_summary(terminalreporter):
    """The errors that tests noted with record_property("measured", (what, error, bound))."""
    found = {}
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        for name, value in report.user_properties if report.when == "call" else ():
            if name == "measured":
                what, error, bound = value
                found.setdefault((what, bound), []).append(error)
    if not found:
        return
    lines = [f"{'worst':>9} {'mean':>9} {'bound':>9} {'cases':>6}  of"]
    for (what, bound), errors in found.items():
        allowed = "finite" if bound is None else f"{bound:.4f}"
        mean = sum(errors) / len(errors)
        lines.append(f"{max(errors):9.5f} {mean:9.5f} {allowed:>9} {len(errors):6}  {what}")
    terminalreporter.section("measured")
    terminalreporter.write_line("\n".join(lines))
    if folder := os.environ.get("OUT"):
        Path(folder, "eight_bits.txt").write_text("\n".join(lines) + "\n")
