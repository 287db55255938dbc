"""benchmarks/tables_precision.py: files that are not there yet, and files that are."""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))

import tables_format  # noqa: E402
import tables_precision as tables  # noqa: E402


def write(monkeypatch, folder: Path, name: str, **found):
    for module in (tables_format, tables):
        monkeypatch.setattr(module, "RESULTS", folder)
    file = folder / f"{name}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(found))


def row(backend: str, precision: str, ms: float, tflops: float) -> dict:
    figures = {"ms": ms, "tflops": tflops, "relative_error": 0.0123, "peak_extra_mib": 7.0}
    return {"backend": backend, "precision": precision, **figures}


def test_mma_sync_compares_rates_of_kept_blocks(monkeypatch, tmp_path):
    write(monkeypatch, tmp_path, "other")
    assert tables.mma_sync() == "Not measured yet."
    rows = [
        row("bf16", "exact", 100.0, 300.0),
        row("int8", "8 bit", 60.0, 500.0),
        row("comfy-kitchen int8", "8 bit", 241.0, 486.0),
    ]
    case = {"name": "Wan", "rows": rows}
    write(monkeypatch, tmp_path, "attention-mma-sync-h100", cases=[case])
    lines = tables.mma_sync().splitlines()
    assert lines[3] == "| int8: Wan, H100 | 8 bit | 60.0 | 500 | 1.67x | 0.0123 |"
    assert "| 241 | 486 | 1.62x |" in lines[4]


def test_libraries_that_few_have_are_beside_ours(monkeypatch, tmp_path):
    write(monkeypatch, tmp_path, "other")
    assert tables.sparge_sage() == "Not measured yet."
    case = {"name": "Wan", "tokens": 1000, "heads": 3}
    ours = [row("triton_int8", "8 bit", 60.0, 500.0), row("dense-triton_int8", "8 bit", 99.0, 1.0)]
    write(monkeypatch, tmp_path, "attention-h200", cases=[case | {"rows": ours}])
    theirs = [row("spargeattn", "8 bit", 70.0, 400.0)]
    write(monkeypatch, tmp_path, "attention-spargeattn-h200", cases=[case | {"rows": theirs}])
    line = tables.sparge_sage().splitlines()[2]
    assert line == "| 1,000 tokens, 3 heads, H200 | 60.0 (0.0123) | 70.0 (0.0123) |  |  |"


def test_what_people_sent_in(monkeypatch, tmp_path):
    write(monkeypatch, tmp_path, "other")
    assert tables.sent_in() == "None yet."
    case = {"name": "Wan", "rows": [row("triton_int8", "8 bit", 60.0, 500.0)]}
    write(monkeypatch, tmp_path, "mine/rtx", machine="RTX; an i7, 8 cores", cases=[case])
    line = tables.sent_in().splitlines()[2]
    assert line == "| [RTX](rtx.json): Wan |  |  |  |  |  | 60.0 |  |"


def test_rows_of_both_gpus(monkeypatch, tmp_path):
    for gpu in ("h100", "h200"):
        case = {"name": tables.VIDEO, "rows": [row("triton_int8", "8 bit", 60.0, 500.0)]}
        write(monkeypatch, tmp_path, f"attention-{gpu}", cases=[case])
    lines = tables.precision().splitlines()[2:]
    assert lines[1] == "| triton_int8, H200 | 8 bit | 60.0 | 500 | 0.0123 | 7 |" and len(lines) == 2


def test_a_line_for_each_length_where_8_bits_were_measured(monkeypatch, tmp_path):
    sol = tables.CALLS["sol_attn, tau 1.3"]
    rows = [
        row("auto", "exact", 48.0, 640.0),
        row("triton_int8", "8 bit", 37.0, 830.0),
        row(sol, "8 bit", 41.5, None),
    ]
    about = {"tokens": 75_600, "heads": 40, "density": 0.262}
    write(monkeypatch, tmp_path, "attention-h100", cases=[{**about, "name": "W", "rows": rows[:1]}])
    write(monkeypatch, tmp_path, "attention-h200", cases=[])
    assert tables.eight_bit_calls() == "Not measured yet."
    write(monkeypatch, tmp_path, "attention-h200", cases=[{**about, "name": "W", "rows": rows}])
    (line,) = tables.eight_bit_calls().splitlines()[2:]
    assert line.startswith("| 75,600 tokens, 40 heads, H200 | 26.2% | 48.0 | 37.0 | 41.5 |  |")
    assert line.endswith("| 0.0123 |")
