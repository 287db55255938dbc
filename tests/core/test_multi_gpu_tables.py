"""The tables of several GPUs: bytes that are exchanged, and files that were measured."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import tables_multi_gpu  # noqa: E402
from end_to_end_cases import CASES  # noqa: E402

from radial_core.ulysses.token_share import share_sizes  # noqa: E402

WIDTH = {"wan2.1-14b-69f-768p": (40, 5120), "hunyuan-117f-768p": (60, 3072)}


@pytest.mark.parametrize("name", WIDTH)
@pytest.mark.parametrize("cards", [2, 4, 8])
def test_bytes_are_those_of_each_head_of_each_token(name, cards):
    """Counted head by head: of q, k and v what other cards have heads of, of o what they have
    tokens of."""
    (layers, width), case = WIDTH[name], CASES[name]
    frames, height, width_of_frame = case.latent
    tokens = share_sizes(frames * height * width_of_frame // 4, cards)
    heads = share_sizes(width // 128, cards)
    of_one_card = 0
    for other in range(1, cards):
        of_one_card += 3 * tokens[0] * heads[other] + tokens[other] * heads[0]
    sent = layers * of_one_card * 128 * 2
    assert tables_multi_gpu.bytes_sent(case, cards) == pytest.approx(sent, rel=1e-9)


def test_expected_seconds_are_shares_and_the_exchange(monkeypatch):
    alone = {"dense_fastest_s": 10.0, "radial_s": 4.0}
    measured = dict.fromkeys(tables_multi_gpu.COMPUTED, alone)
    monkeypatch.setattr(tables_multi_gpu, "by_name", lambda _: measured)
    monkeypatch.setattr(tables_multi_gpu, "bytes_sent", lambda case, cards: 50e9 / cards)
    row = tables_multi_gpu.multi_gpu_expected().splitlines()[2]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:6] == ["10.0", "2", "25.0", "6.00 s, 1.7x", "5.50 s, 1.8x"]


def test_measured_files_are_rows_and_dry_runs_are_not(tmp_path, monkeypatch):
    monkeypatch.setattr(tables_multi_gpu, "RESULTS", tmp_path)
    assert tables_multi_gpu.multi_gpu() == "Not measured yet."
    regions = dict(attention=1.0, linear=0.75, communication=0.25, rest=0.5)
    case = {
        "video": "hunyuan-117f-768p",
        "way": "radial",
        "gpus": 4,
        "pass_s": {"1": 7.5, "4": 2.5},
        "speedup": 3.0,
        "regions": {"1": regions, "4": regions},
        "relative_difference": 0.00042,
        "peak_gib": {"1": [31.5], "4": [29.0, 28.0, 28.0, 28.0]},
        "host_gib": [3.0, 2.0, 2.0, 2.0],
    }
    text = json.dumps({"cases": [case]})
    for name in ("multi_gpu-h200", "multi_gpu-cpu-tiny"):
        (tmp_path / f"{name}.json").write_text(text)
    monkeypatch.setattr(tables_multi_gpu, "results", lambda name: json.loads(text))
    _, _, *rows = tables_multi_gpu.multi_gpu().splitlines()
    assert rows == [
        "| HunyuanVideo, 117 frames, 768p, radial | 4 | 7.50 | 2.50 | 3.00x | 1.00 | 0.75 | 0.25 | "
        "0.50 | 4.2e-04 | 31.5 | 29.0, 28.0, 28.0, 28.0 | 3.00, 2.00, 2.00, 2.00 |"
    ]
