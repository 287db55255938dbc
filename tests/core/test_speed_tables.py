"""benchmarks/tables_speed.py: files with 8 bits and without, and cases that lack some ways."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))

import tables_format  # noqa: E402
import tables_speed as tables  # noqa: E402

EXACT = {
    "name": "hunyuan-117f-768p",
    **{"dense_s": 30.0, "dense_fastest_s": 18.0, "radial_s": 7.0},
    **{"schedule_dense_s": 1500.0, "schedule_radial_s": 482.0, "schedule_with_last_step_s": 493.0},
    **{"speedup_schedule": 3.11, "peak_gib_radial": 31.6, "measured_blocks": None},
}
EIGHT_BIT = {
    **{"dense_8bit_s": 14.0, "radial_8bit_s": 6.0, "peak_gib_radial_8bit": 31.7},
    **{"schedule_radial_8bit_s": 396.0, "schedule_8bit_with_last_step_s": 404.0},
    "speedup_schedule_8bit": 3.79,
}
BOTH = {**EXACT, **EIGHT_BIT, "ways_of_an_earlier_run": ["dense"]}


@pytest.fixture
def write(monkeypatch, tmp_path):
    monkeypatch.setattr(tables_format, "RESULTS", tmp_path)

    def write(**cases):
        for gpu, found in cases.items():
            (tmp_path / f"end_to_end-{gpu}.json").write_text(json.dumps({"cases": found}))

    return write


def test_the_first_screen_names_the_gpu_of_8_bits(write):
    write(h100=[EXACT], h200=[EXACT])
    lines = tables.speed().splitlines()
    assert "8 bit" not in lines[0] and lines[2].endswith("| 8 min | 3.0x |")
    longer = {**EXACT, "name": "hunyuan-509f-720p"}
    write(h100=[EXACT, longer], h200=[BOTH])
    lines = tables.speed().splitlines()
    assert lines[0].endswith("| speed-up | 8 bit, on an H200 |")
    assert lines[2].endswith("| 8 min | 3.0x | 7 min, 3.7x |") and lines[3].endswith("| 3.0x |  |")
    write(h100=[BOTH], h200=[BOTH])
    assert tables.speed().splitlines()[0].endswith("| speed-up | 8 bit |")


def test_what_was_measured_on_an_h200_only_stands_at_the_end_of_the_first_screen(write):
    h3 = {**BOTH, "name": "minimax-h3-15s-768p"}
    write(h100=[EXACT], h200=[h3, {"name": "wan2.1-14b-69f-768p", "dense_s": 14.0}])
    *_, hunyuan, last = tables.speed().splitlines()
    assert hunyuan.startswith("| HunyuanVideo, 117") and "on an H200" in last


def test_exact_and_8_bit_have_columns_of_their_own(write):
    new = {"name": "wan2.1-14b-69f-768p", "radial_8bit_s": 4.1}
    write(h200=[BOTH, new])
    head, _, both, new = tables.videos_h200().splitlines()
    titles, cells = ([cell.strip() for cell in line.split("|")[1:-1]] for line in (head, both))
    found = dict(zip(titles, cells, strict=True))
    assert found["video"] == "HunyuanVideo, 117 frames, 768p ²"
    assert (found["radial, exact"], found["radial, 8 bit"]) == ("7.00", "6.00")
    assert (found["exact"], found["8 bit"]) == ("482", "396")
    assert (found["speed-up, exact"], found["speed-up, 8 bit"]) == ("3.1x", "3.8x")
    assert (found["peak GiB: exact"], found["peak GiB: 8 bit"]) == ("31.6", "31.7")
    assert new.count("|  ") == len(titles) - 2  # the name and one figure
    write(h200=[EXACT])
    assert "8 bit" not in tables.videos_h200()


def test_adaptive_lists_have_a_row_for_each_precision_that_was_measured(write):
    exact = {"adaptive_067_s": 5.0, "look_s_adaptive_067": 1.5, "schedule_adaptive_067_s": 400.0}
    exact |= {"radial_adaptive_s": 7.1, "look_s_radial_adaptive": 2.5, "schedule_adaptive_s": 489.0}
    write(h200=[BOTH, {**EXACT, **exact, "name": "wan2.1-14b-69f-768p"}])
    (row,) = tables.videos_adaptive().splitlines()[2:]
    cells = "exact | 7.00 | 7.10 | 5.00 | 2.50 | 1.50 | 482 | 489 | 400"
    assert row == f"| Wan 2.1 14B, 69 frames, 768p | {cells} |"
    eight_bit = {"adaptive_067_8bit_s": 4.0, "schedule_adaptive_067_8bit_s": 350.0}
    write(h200=[{**BOTH, **exact, **eight_bit}])
    row = tables.videos_adaptive().splitlines()[3]
    assert row.endswith("| 8 bit | 6.00 |  | 4.00 |  |  | 396 |  | 350 |")
