"""benchmarks/attention.py: its rows, and the files that `--mine` writes and people send in."""

import json
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests")]

import attention_measure  # noqa: E402
import attention_mine as mine  # noqa: E402
import record  # noqa: E402
from attention_case import bench, measured_row  # noqa: E402
from attention_measure import DEVICE, draw, relative_error  # noqa: E402
from attention_rows import (  # noqa: E402
    AUTO,
    EIGHT_BIT_ROWS,
    KITCHEN_SPARSE,
    LONG,
    Row,
    comfy_kitchen_rows,
    rows,
    sage_rows,
)
from package import copy_package  # noqa: E402

from radial_core import RadialPattern, VideoLayout, make_plan  # noqa: E402
from radial_core.reference import reference_attention  # noqa: E402

LAYOUT, HEADS, PATTERN = VideoLayout(5, 8, 16), 2, RadialPattern(0.2, 1)
SENT = sorted((ROOT / "benchmarks/results/mine").glob("*.json"))

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="tests/gpu measure there")


@pytest.fixture(scope="module", autouse=True)
def quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention_measure, "SECONDS", 0.01)
        yield


@pytest.fixture(scope="module")
def measured():
    """What --mine writes, really measured, of a tiny video."""
    case = bench(mine.VIDEOS[0], LAYOUT, HEADS, PATTERN, mine.BACKENDS)
    return record.assembled([case], mine.COMMAND, date="2026-11-29", memory_gib=24.0)


def test_every_row_says_its_precision():
    case = bench("tiny", LAYOUT, HEADS, PATTERN)
    rows = {row["backend"]: row for row in case["rows"]}
    assert {"auto", "auto, 8 bit", "sdpa", "dense-sdpa", "auto at density 1"} <= rows.keys()
    assert all(row["precision"] == "exact" for row in rows.values())
    assert all(0 < row["relative_error"] < 0.01 for row in rows.values())


def test_the_results_say_the_precision_of_every_row():
    cases = json.loads((ROOT / "benchmarks/results/attention-h100.json").read_text())["cases"]
    for row in (row for case in cases for row in case["rows"]):
        assert row["precision"] == ("8 bit" if "int8" in row["backend"] else "exact")


def test_the_error_is_that_of_the_output():
    q, k, v = draw(LAYOUT.tokens, HEADS)
    plan = make_plan(PATTERN, LAYOUT, DEVICE)
    out = reference_attention(q, k, v, plan)
    assert relative_error(out, q, k, v, plan) < 1e-5
    assert 0.01 < relative_error(1.02 * out, q, k, v, plan) < 0.03


def test_a_row_that_changes_k_leaves_ours_alone():
    """SageAttention 1 takes the mean off the k that it gets."""
    qkv, plan = draw(LAYOUT.tokens, HEADS), make_plan(PATTERN, LAYOUT, DEVICE)
    before = qkv[1].clone()

    def run(q, k, v):
        k -= 0.25
        return reference_attention(q, k, v, plan).to(q.dtype)

    (row,) = measured_row(Row("changes k", "8 bit", plan, run, changes_k=True), qkv)
    assert torch.equal(qkv[1], before) and row["relative_error"] < 0.05


@pytest.fixture
def neighbours(monkeypatch):
    """Stand-ins: none runs without a GPU. They fail if a name or a shape is not theirs."""
    kitchen, sage = ModuleType("comfy_kitchen"), ModuleType("sageattention")
    kitchen.int8_attention_is_available = kitchen.sol_attn_is_available = lambda device: True

    def int8_attention(q, k, v, *, scale=None, attn_mask=None):
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=scale)

    def sageattn(q, k, v, tensor_layout="HND", is_causal=False, sm_scale=None, smooth_k=True):
        assert tensor_layout == "NHD"
        return sol_attn(q, k, v, scale=sm_scale)

    def sol_attn(q, k, v, tau=1.0, scale=None):
        kitchen.taus.append(tau)
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return int8_attention(q, k, v, scale=scale).transpose(1, 2)

    kitchen.taus, kitchen.sol_attn, kitchen.int8_attention = [], sol_attn, int8_attention
    sage.sageattn = sageattn
    monkeypatch.setitem(sys.modules, "comfy_kitchen", kitchen)
    monkeypatch.setitem(sys.modules, "sageattention", sage)
    monkeypatch.setattr("attention_rows.find_spec", lambda name: name == "sageattention")
    return kitchen


def test_neighbours_are_asked_in_their_own_layouts(neighbours):
    everything = make_plan(RadialPattern(sink_frames=5), LAYOUT, DEVICE)
    qkv = draw(LAYOUT.tokens, HEADS)
    found = [*comfy_kitchen_rows(everything), *sage_rows(everything)]
    names = [*KITCHEN_SPARSE.values(), mine.KITCHEN_DENSE, mine.SAGE]
    assert [row.backend for row in found] == names
    for row in found:
        assert row.precision == "8 bit"
        (figures,) = measured_row(row, qkv)
        assert figures["relative_error"] < 0.01
        assert (figures["tflops"] is None) == ("sol_attn" in row.backend)
    assert set(neighbours.taus) == {1.3, 1.0}


def test_a_long_video_has_no_dense_row_that_takes_seconds(neighbours, monkeypatch):
    short, long = (
        make_plan(RadialPattern(sink_frames=frames), VideoLayout(frames, 128, 256), DEVICE)
        for frames in (3, 7)
    )
    assert short.tokens < LONG <= long.tokens
    for plan, is_there in ((short, True), (long, False)):
        found = [row.backend for row in rows(plan, plan, EIGHT_BIT_ROWS)]
        assert {*AUTO, *KITCHEN_SPARSE.values()} <= set(found) <= set(EIGHT_BIT_ROWS)
        assert (mine.KITCHEN_DENSE in found, mine.SAGE in found) == (is_there, is_there)


def test_where_8_bits_lead_auto_says_so(monkeypatch):
    """As on a card whose ranking begins with an 8-bit backend."""
    both = {False: "triton", True: "triton_int8"}
    choose = lambda backend, call, tokens, approximate=False: both[approximate]  # noqa: E731
    monkeypatch.setattr("attention_rows.choose_backend", choose)
    plan = make_plan(PATTERN, LAYOUT, DEVICE)
    found = {row.backend: row.precision for row in rows(plan, plan, tuple(AUTO))}
    assert found == {"auto": "exact", "auto, 8 bit": "8 bit"}
    assert {"triton", "triton_int8", "dense-triton_int8"} <= set(EIGHT_BIT_ROWS)
    assert not {"sdpa", "flex", "dense-flash_attention"} & set(EIGHT_BIT_ROWS)


def test_what_mine_writes_passes_its_check(measured):
    (case,) = measured["cases"]
    assert [row["backend"] for row in case["rows"]] == ["dense-sdpa"]
    assert mine.faults(json.loads(json.dumps(measured))) == []
    assert "1.00x" in mine.table(measured["cases"])


@pytest.mark.parametrize("file", SENT, ids=lambda file: file.name)
def test_what_people_sent_has_the_format(file):
    assert mine.faults(json.loads(file.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "machine, fine",
    [
        ("NVIDIA GeForce RTX 4090; AMD Ryzen 7 PRO 7840U w/ Radeon 780M, 16 cores, Linux", True),
        ("NVIDIA GeForce RTX 3090; Intel(R) Core(TM) i7 CPU @ 3.60GHz, 8 cores, Windows", True),
        ("/home/ann", False),
        (r"C:\Users\ann", False),
        ("ann/ComfyUI", False),
    ],
)
def test_paths_are_found(measured, machine, fine):
    assert (mine.faults({**measured, "machine": machine}) == []) == fine


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found.pop("versions"),
        lambda found: found.update(user="ann"),
        lambda found: found.update(command="python attention.py --results x"),
        lambda found: found.update(date="29.11.2026"),
        lambda found: found["cases"][0].update(name="my video"),
        lambda found: found["cases"][0].pop("density"),
        lambda found: found["cases"][0]["rows"][0].pop("precision"),
        lambda found: found["cases"][0]["rows"][0].update(precision="16 bit"),
        lambda found: found["cases"][0]["rows"][0].update(backend="my kernel"),
        lambda found: found["cases"][0]["rows"][0].update(ms=0),
    ],
)
def test_faults_are_found(measured, change):
    found = deepcopy(measured)
    change(found)
    assert len(mine.faults(found)) == 1


def test_fewer_heads_where_memory_is_short():
    gib = 2**30
    fit = [mine.heads_that_fit(75_600, 40, free * gib) for free in (10, 6, 3, 1, 0.5)]
    assert fit == [40, 20, 10, 5, 0]
    assert mine.heads_that_fit(32_760, 12, 2 * gib) == 12


def test_the_file_is_named_after_the_card():
    name = mine.file_name("NVIDIA GeForce RTX 4070 Ti SUPER", "2026-11-29-1432")
    assert name == "nvidia-geforce-rtx-4070-ti-super-2026-11-29-1432"


def test_it_writes_one_file_and_says_where_to_send_it(monkeypatch, tmp_path, capsys):
    """All of --mine on small videos, with a card's name and memory."""
    small = {name: (LAYOUT, HEADS, PATTERN) for name in mine.VIDEOS}
    needed = HEADS * LAYOUT.tokens * 128 * 2 * mine.TENSORS
    monkeypatch.setattr(mine, "CASES", small)
    monkeypatch.setattr(record, "ROOT", tmp_path)
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(record, "machine", lambda: "AMD Radeon RX 7900 XT/7900 XTX; a CPU")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA GeForce RTX 4090")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (needed - 1, 24 * 2**30))
    mine.main()
    (file,) = (tmp_path / "results/mine").iterdir()
    assert file.name.startswith("nvidia-geforce-rtx-4090-20") and file.suffix == ".json"
    found = json.loads(file.read_text())
    assert mine.faults(found) == [] and found["memory_gib"] == 24.0
    assert [(case["heads"], len(case["rows"])) for case in found["cases"]] == [(1, 1), (1, 1)]
    assert all(case["name"].endswith(", 1 of 2 heads") for case in found["cases"])
    last = capsys.readouterr().out.splitlines()[-1]
    assert file.name in last and mine.ADDRESS in last


@pytest.mark.parametrize("error", [float("nan"), 1.3])
def test_a_kernel_that_is_wrong_costs_its_row_alone(measured, capsys, error):
    rows = deepcopy(measured["cases"][0]["rows"])
    wrong = {**rows[0], "backend": mine.SAGE, "relative_error": error}
    assert mine.believable([*rows, wrong]) == rows
    assert capsys.readouterr().out.startswith(f"  {mine.SAGE}: left out, ")


def test_the_form_is_there_and_asks_for_the_file():
    yaml = pytest.importorskip("yaml")
    text = (ROOT / ".github/ISSUE_TEMPLATE" / mine.TEMPLATE).read_text(encoding="utf-8")
    form = yaml.safe_load(text)
    assert {"name", "description", "body"} <= form.keys() and mine.COMMAND in form["description"]
    assert [part["id"] for part in form["body"] if part.get("validations")] == ["file"]


def test_it_starts_from_the_package_in_a_python_that_keeps_its_folder_off_the_path(tmp_path):
    """As the embedded Python of ComfyUI portable does. Without a GPU it says so."""
    try:
        copy_package(tmp_path)
    except subprocess.CalledProcessError:
        pytest.skip("no git repository")
    script = tmp_path / "benchmarks/attention.py"
    done = subprocess.run([sys.executable, "-I", script, "--mine"], capture_output=True, text=True)
    assert done.returncode == 2 and "torch finds none" in done.stderr
