"""benchmarks/attention_mma_sync.py: Triton writes Ampere's code, and it is assembled for Hopper."""

import re
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from compiling import output_of

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))

pytest.importorskip("triton")
import mma_sync  # noqa: E402


def compiled_as(chip: str) -> list[str]:
    return output_of("compile_mma_sync.py", chip).splitlines()


def test_ampere_s_code_is_assembled_for_hopper():
    portable, int8 = compiled_as("ampere")
    for line, product in ((portable, "HMMA"), (int8, "IMMA")):
        assert "'ptx': 'sm_80', 'cubin': 'sm_90'" in line and "'wgmma': 0" in line
        assert int(re.search(r"'mma.sync': (\d+)", line)[1]) > 0
        assert line.endswith(f"['{product}']")
    assert int(re.search(r"'cp.async': (\d+)", portable)[1]) > 0


def test_hopper_s_own_code_is_no_evidence():
    portable, _ = compiled_as("hopper")
    assert "is not for sm_80" in portable and portable.endswith("['HGMMA']")


@pytest.mark.parametrize(
    "ptx, assembly, message",
    [
        (".target sm_80\nmma.sync.aligned", "EF_CUDA_SM89\nHMMA", "assembled for sm_89"),
        (".target sm_80\nmma.sync.aligned", "EF_CUDA_SM90\nHGMMA.64", "Hopper's products"),
        (".target sm_80\nadd", "EF_CUDA_SM90", "expected mma.sync"),
        (".target sm_80\nmma.sync\nwgmma.mma", "EF_CUDA_SM90\nHMMA", "expected mma.sync"),
    ],
)
def test_what_is_no_evidence(monkeypatch, ptx, assembly, message):
    monkeypatch.setattr(mma_sync, "disassembled", lambda cubin: assembly)
    with pytest.raises(RuntimeError, match=message):
        mma_sync.evidence([mma_sync.Compiled("attend", ptx, b"", 1)], 90)


def test_the_script_needs_hopper():
    script = ROOT / "benchmarks/attention_mma_sync.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert done.returncode == 2 and "needs an H100 or H200" in done.stderr


def test_the_fastest_that_fits_an_rtx_card_is_kept(monkeypatch):
    """Also in a second case, for which Triton compiles nothing."""
    monkeypatch.setenv("TRITON_CACHE_DIR", "")  # which the import changes
    import attention_mma_sync as script
    from attention_measure import DEVICE, draw
    from attention_rows import Row

    from radial_core import RadialPattern, VideoLayout, make_plan
    from radial_core.reference import reference_attention

    layout = VideoLayout(2, 8, 16)
    plan, qkv = make_plan(RadialPattern(0.2, 1), layout, DEVICE), draw(layout.tokens, 1)
    kib = {(1, 1): 64, (2, 2): 64, (3, 3): 128}  # of shared memory
    seconds = {(1, 1): 0.02, (2, 2): 0.01, (3, 3): 0.0}
    compiled, kept, made = [], {}, set()

    def run(tiles, q, k, v):
        if tiles not in made:
            made.add(tiles)
            compiled.append(mma_sync.Compiled("attend", str(tiles), b"", 1024 * kib[tiles]))
        time.sleep(seconds[tiles])
        return reference_attention(q, k, v, plan).to(q.dtype)

    monkeypatch.setattr(mma_sync, "evidence", lambda kernels, chip: [k.ptx for k in kernels])
    for _ in range(2):
        rows = [(tiles, Row("int8", "8 bit", plan, partial(run, tiles))) for tiles in kib]
        (row,) = script.best_row(rows, qkv, compiled, kept)
        assert row["config"] == [2, 2] and row["shared_kib"] == 64
        assert row["precision"] == "8 bit" and row["compiled"] == ["(2, 2)"]
