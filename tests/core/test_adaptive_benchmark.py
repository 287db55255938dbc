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
    assert "exact: radial" in capsys.readouterr().out
    seen, radial = case["attended"]
    assert case["attended_067"] < seen and radial < seen < 1
    assert [row["precision"] for row in case["sparse"]] == ["exact"]
    case |= {"look_peak_mib": 7, "dense_ms": 12.34}  # a GPU's
    (tmp_path / "adaptive-h900.json").write_text(json.dumps({"cases": [case]}))
    for module in (tables_cost, tables_format):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    (row,) = tables_cost.adaptive().splitlines()[2:]
    assert row.startswith("| tiny, H900 | exact | 12.3 | ")
