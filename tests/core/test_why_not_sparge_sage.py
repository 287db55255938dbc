"""What SpargeAttn and SageAttention support, and which of their versions do."""

import pytest
import torch

from radial_core.backends import sageattention, spargeattn
from radial_core.call import Call

HALF, BRAIN, FULL = torch.float16, torch.bfloat16, torch.float32
CUDA = torch.device("cuda", 0)
OLD = "def spas_sage_attn_meansim_cuda(q, k, v):\n"
MASKS = "def block_sparse_sage2_attn_cuda(q, k, v, mask_id=None):\n"
PADS_TO_64 = "    padded_len = (kv_len + 63) // 64 * 64\n"
PADS_TO_128 = "    padded_len = (kv_len + 127) // 128 * 128\n"
ONE = "def sageattn(q, k, v):\n"
TWO = "def sageattn_qk_int8_pv_fp16_cuda(\n"


@pytest.fixture
def code(monkeypatch, tmp_path):
    """Makes a package with this core.py, which can't be imported; an empty one has no core.py."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(package, text):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise ImportError('undefined symbol')")
        if text:
            (tmp_path / package / "core.py").write_text(text)

    yield write
    forget()


def forget():
    spargeattn._why_not_installed.cache_clear()
    sageattention._installed.cache_clear()


def ask(monkeypatch, question, gpu, *call, **extras):
    forget()
    for module in (spargeattn, sageattention):
        monkeypatch.setattr(module, "capability", lambda device: gpu)
    return question(Call(CUDA, *call, **extras))


# (capability, dtype, head_dim, block_size, extras) -> None, or how the reason begins
SPARGE = [
    ((8, 0), BRAIN, 128, 128, {}, None),
    ((8, 6), HALF, 64, 128, {}, None),
    ((9, 0), BRAIN, 128, 128, {"per_head": True}, None),
    ((12, 1), BRAIN, 128, 128, {}, None),
    ((7, 5), HALF, 128, 128, {}, "spargeattn needs an NVIDIA GPU"),
    ((0, 0), BRAIN, 128, 128, {}, "spargeattn needs an NVIDIA GPU"),
    ((8, 9), FULL, 128, 128, {}, "spargeattn needs float16 or bfloat16"),
    ((8, 9), BRAIN, 96, 128, {}, "spargeattn needs head_dim 64 or 128, got 96"),
    ((8, 9), BRAIN, 128, 64, {}, "spargeattn needs block_size 128, got 64"),
    ((8, 9), BRAIN, 128, 128, {"grad": True}, "spargeattn has no backward"),
    ((8, 9), BRAIN, 128, 128, {"lse": True}, "spargeattn has no log-sum-exp"),
]
SAGE = [
    ((8, 6), BRAIN, 128, 64, {}, None),
    ((12, 0), HALF, 72, 64, {}, None),
    ((7, 5), HALF, 128, 128, {}, "sageattention needs an NVIDIA GPU"),
    ((0, 0), BRAIN, 128, 128, {}, "sageattention needs an NVIDIA GPU"),
    ((8, 9), FULL, 128, 128, {}, "sageattention needs float16 or bfloat16"),
    ((8, 9), BRAIN, 256, 128, {}, "sageattention needs a head_dim of 8 to 128"),
    ((8, 9), BRAIN, 100, 128, {}, "sageattention needs a head_dim of 8 to 128"),
    ((8, 9), BRAIN, 128, 128, {"grad": True}, "sageattention has no backward"),
]
ALL = [
    *((spargeattn.why_not, *row) for row in SPARGE),
    *((sageattention.why_not_dense, *row) for row in SAGE),
]


@pytest.mark.parametrize("question, gpu, dtype, head_dim, block_size, extras, beginning", ALL)
def test_what_they_support(
    code, monkeypatch, question, gpu, dtype, head_dim, block_size, extras, beginning
):
    code("spas_sage_attn", MASKS + PADS_TO_128)
    code("sageattention", ONE + TWO)
    reason = ask(monkeypatch, question, gpu, dtype, head_dim, block_size, **extras)
    assert reason is None if beginning is None else reason.startswith(beginning)


@pytest.mark.parametrize(
    "text, ampere, hopper",
    [
        (None, "not installed", "not installed"),
        ("", "not installed", "not installed"),
        (OLD + PADS_TO_64, "too old, it takes no mask", "too old, it takes no mask"),
        (OLD + MASKS + PADS_TO_64, None, "too old for this GPU"),
        (OLD + MASKS + PADS_TO_128, None, None),
    ],
    ids=["missing", "something else", "before masks", "before December 2025", "of today"],
)
@pytest.mark.parametrize("gpu", [(8, 6), (9, 0)], ids=str)
def test_versions_of_spargeattn(code, monkeypatch, text, ampere, hopper, gpu):
    if text is not None:
        code("spas_sage_attn", text)
    reason = ask(monkeypatch, spargeattn.why_not, gpu, BRAIN, 128, 128)
    expected = hopper if gpu == (9, 0) else ampere
    if expected is None:
        assert reason is None
    else:
        assert expected in reason and "wheels for Windows" in reason and "on Linux build" in reason


@pytest.mark.parametrize("text", [None, "", ONE, ONE + TWO])
def test_versions_of_sageattention(code, monkeypatch, text):
    if text is not None:
        code("sageattention", text)
    reason = ask(monkeypatch, sageattention.why_not_dense, (8, 9), BRAIN, 128, 128)
    if text == ONE + TWO:
        assert reason is None
    else:
        assert "sageattention 2 is not installed" in reason and "on Linux build" in reason
