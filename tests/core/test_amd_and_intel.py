"""GPUs of AMD and Intel, faked: what is tried there. For AMD the kernels are compiled too."""

import json
from types import SimpleNamespace

import pytest
import torch
from compiling import output_of

from radial_core import devices, proof
from radial_core.backends import triton, triton_int8
from radial_core.backends.ranking import dense_ranking, ranking
from radial_core.call import Call, capability, is_out_of_memory, on_device

# Bytes of a thread that don't fit its registers. RDNA 3 has the fewest; what needs the most is the
# quantization, a small part of a call.
MOST_SCRATCH = {"gfx942": 0, "gfx1100": 160, "gfx1201": 0}
CUDA, XPU = torch.device("cuda", 0), torch.device("xpu", 0)


@pytest.fixture
def gpu(monkeypatch):
    """make(architecture): an AMD GPU, or one of Intel if that is a bool: with matrix units?"""

    def make(architecture):
        amd = isinstance(architecture, str)
        monkeypatch.setattr(torch.version, "cuda", None)
        monkeypatch.setattr(torch.version, "hip", "7.2" if amd else None)
        properties = SimpleNamespace(
            gcnArchName=architecture, has_subgroup_matrix_multiply_accumulate=architecture
        )
        module = torch.cuda if amd else torch.xpu
        monkeypatch.setattr(module, "get_device_properties", lambda device: properties)
        monkeypatch.setattr(triton, "_version", lambda: (3, 3))
        return CUDA if amd else XPU

    caches = capability.cache_clear, devices.has_matrix_units.cache_clear
    for clear in caches:
        clear()
    yield make
    for clear in caches:
        clear()


@pytest.mark.parametrize(
    "architecture, can",
    [
        ("gfx942:sramecc+:xnack-", True),
        ("gfx90a", True),
        ("gfx1100", True),
        ("gfx1201", True),
        ("gfx1030", False),
        ("gfx906:sramecc-:xnack-", False),
        (True, True),
        (False, False),
    ],
)
def test_the_portable_kernels_are_tried_where_there_are_matrix_units(gpu, architecture, can):
    call = Call(gpu(architecture), torch.bfloat16, 128, 128)
    reasons = [backend.why_not(call) for backend in (triton, triton_int8)]
    if can:
        assert reasons == [None, None]
    else:
        assert all("a GPU of AMD or Intel with matrix units, got" in reason for reason in reasons)
    assert triton.why_not_dense(call)  # Hopper's


@pytest.mark.parametrize("architecture", ["gfx942", True])
def test_what_auto_tries(gpu, architecture):
    call = Call(gpu(architecture), torch.bfloat16, 128, 128)
    assert ranking(call, 100_000) == ("triton", "sdpa")
    assert ranking(call, 100_000, approximate=True) == ("triton_int8", "triton", "sdpa")
    assert dense_ranking(call, approximate=True) == ()


@pytest.mark.parametrize("architecture", ["gfx942", True])
def test_without_triton_it_says_where_that_comes_from(gpu, monkeypatch, architecture):
    call = Call(gpu(architecture), torch.bfloat16, 128, 128)
    monkeypatch.setattr(triton, "_version", tuple)
    reason = triton.why_not(call)
    assert "it comes with PyTorch" in reason and "triton-windows" not in reason


@pytest.mark.parametrize(
    "package", ["triton", "triton-windows", "pytorch-triton-rocm", "triton-rocm", "triton-xpu"]
)
def test_triton_has_many_names(monkeypatch, package):
    def version(name):
        if name != package:
            raise triton.PackageNotFoundError(name)
        return "3.6.0+git225cdbde"

    monkeypatch.setattr(triton, "version", version)
    assert triton._version.__wrapped__() == (3, 6)


def test_an_intel_gpu_becomes_the_current_one(monkeypatch):
    monkeypatch.setattr(torch.xpu, "current_device", lambda: 1)
    monkeypatch.setattr(torch.xpu, "device", lambda device: f"current: {device}")
    assert on_device(XPU) == "current: xpu:0"


@pytest.mark.parametrize(
    "error, expected",
    [
        (torch.OutOfMemoryError("XPU out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("Triton Error [HIP]:  Code: 2, Messsage: out of memory"), True),
        (RuntimeError("Native API returns: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)"), True),
        (RuntimeError("Native API returns: 20 (UR_RESULT_ERROR_DEVICE_LOST)"), False),
    ],
)
def test_what_a_lack_of_memory_looks_like(error, expected):
    assert is_out_of_memory(error) == expected


def test_the_oracle_of_an_intel_gpu_is_the_cpu():
    assert proof._oracle_device(XPU).type == "cpu"
    assert proof._oracle_device(CUDA) == CUDA


@pytest.fixture(scope="module")
def compiled():
    """What compile_amd.py says of each kernel and GPU."""
    backends = pytest.importorskip("triton.backends")
    if "amd" not in backends.backends:
        pytest.skip("this Triton compiles for NVIDIA only")
    return [json.loads(line) for line in output_of("compile_amd.py").splitlines()]


@pytest.mark.parametrize("architecture", MOST_SCRATCH)
def test_for_amd_the_kernels_use_its_matrix_units(compiled, architecture):
    found = [each for each in compiled if each["architecture"] == architecture]
    assert found
    for each in found:
        assert each["products"] >= 32 and each["scratch"] <= MOST_SCRATCH[architecture], each
