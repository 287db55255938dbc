"""benchmarks/adaptive.py runs, and its table shows what it wrote."""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import adaptive  # noqa: E402
import tables_cost  # noqa: E402
import tables_format  # noqa: E402

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="it measures there")


def test_a_case_becomes_a_row(monkeypatch, tmp_path, capsys):
    case = adaptive.bench("tiny", *adaptive.TINY["tiny"], quick=True)
    adaptive.show(case)
    shown = capsys.readouterr().out
    assert "exact: radial" in shown and "of adaptive" in shown
    seen, radial = case["attended"]
    assert case["attended_067"] < seen and radial < seen < 1
    assert [row["precision"] for row in case["sparse"]] == ["exact"]
    (row,) = case["sparse"]
    assert row["repair_share"] == pytest.approx(case["repair_ms"] / row["adaptive_ms"], abs=1e-4)
    case |= {"look_peak_mib": 7, "dense_ms": 12.34, "repair_ms": 1.5}  # a GPU's
    row["repair_share"] = 0.0312
    older = {key: value for key, value in case.items() if key != "repair_ms"}
    (tmp_path / "adaptive-h900.json").write_text(json.dumps({"cases": [case, older]}))
    for module in (tables_cost, tables_format):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    head, _, row, before = tables_cost.adaptive().splitlines()
    assert head.endswith("| repair (of adaptive) |")
    assert row.startswith("| tiny, H900 | exact | 12.3 | ") and row.endswith("| 1.50 (3.1%) |")
    assert before.endswith("|  |")
    (tmp_path / "adaptive-h900.json").write_text(json.dumps({"cases": [older]}))
    assert "repair" not in tables_cost.adaptive()
