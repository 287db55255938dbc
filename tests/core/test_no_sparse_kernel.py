"""Running row by row on anything but a CPU is logged once, with the reason."""

import logging
from types import SimpleNamespace

import pytest
import torch

from radial_core import attention, call, devices, failures, proof

TOKENS = 75_600
CUDA = torch.device("cuda", 0)
# Device, torch.version.cuda, compute capability -> what the warning has; None: no warning.
DEVICES = {
    "cpu": (torch.device("cpu"), None, None, None),
    "mps": (torch.device("mps"), None, None, "there is none for devices of the type mps"),
    "an old xpu": (torch.device("xpu", 0), None, None, "with matrix units, got xpu:0"),
    "an old hip": (CUDA, None, (10, 3), "with matrix units, got cuda:0"),
    "an old cuda": (CUDA, "12.8", (7, 5), "flex needs an NVIDIA GPU of compute capability 8.0"),
}


@pytest.fixture
def machine(request, monkeypatch):
    """A device of DEVICES, on which no kernel runs, and the expected warning."""
    device, cuda, capability, expected = request.param
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.version, "hip", None if cuda else "7.2")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    properties = SimpleNamespace(
        gcnArchName="gfx1030", has_subgroup_matrix_multiply_accumulate=False
    )
    for module in (torch.cuda, torch.xpu):
        monkeypatch.setattr(module, "get_device_properties", lambda device: properties)
    memories = attention._choices, failures._reasons, failures._logged, proof._verdicts

    def forget():
        call.capability.cache_clear()
        devices.has_matrix_units.cache_clear()
        attention._warn_that_it_is_slow.cache_clear()
        for memory in memories:
            memory.clear()

    forget()
    yield device, expected
    forget()


@pytest.mark.parametrize("machine", DEVICES.values(), ids=DEVICES, indirect=True)
def test_all_but_a_cpu_warn_once_and_say_why(machine, caplog):
    device, expected = machine
    kind = (device, torch.bfloat16, 128, 128)
    with caplog.at_level(logging.WARNING, "radial_attention"):
        for tokens in (TOKENS, 2 * TOKENS):
            assert attention._choose("auto", False, tokens, kind) == "sdpa"
    messages = [r.getMessage() for r in caplog.records]
    if expected is None:
        assert messages == []
    else:
        (warning,) = messages
        assert "without a sparse kernel" in warning
        assert expected in warning
