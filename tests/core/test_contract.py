"""Every registered backend keeps the contract (radial_core/backends/contract.py)."""

import inspect
import sys
from types import ModuleType

import pytest
import torch
from registering import forget

from radial_core import backends
from radial_core.backends import BACKENDS, backend_module, check_backend_name
from radial_core.backends import ranking as rankings
from radial_core.backends.contract import (
    EXACT,
    Accuracy,
    Backend,
    DenseBackend,
    DenseKernel,
    exact_tolerance,
)
from radial_core.backends.ranking import DENSE, ranking
from radial_core.call import Call

CUDA = torch.device("cuda", 0)


def faults(module, protocol) -> list[str]:
    """How a module breaks a Protocol: what it lacks, and parameters of other names or in another
    order. Parameters of its own, behind those of the contract, need defaults.
    """
    found = []
    if not isinstance(getattr(module, "ACCURACY", None), Accuracy):
        found.append("ACCURACY is no Accuracy")
    for name, expected in inspect.getmembers(protocol, inspect.isfunction):
        if name.startswith("_"):
            continue
        function = getattr(module, name, None)
        if not callable(function):
            found.append(f"no {name}")
            continue
        wanted = list(inspect.signature(expected).parameters)
        found_parameters = list(inspect.signature(function).parameters.values())
        names = [parameter.name for parameter in found_parameters]
        own = found_parameters[len(wanted) :]
        if names[: len(wanted)] != wanted or any(x.default is x.empty for x in own):
            found.append(f"{name}({', '.join(names)})")
    return found


def has_dense(module) -> bool:
    return hasattr(module, "dense") or hasattr(module, "why_not_dense")


@pytest.mark.parametrize("name", BACKENDS)
def test_a_registered_backend_keeps_the_contract(name):
    module = backend_module(name)
    assert faults(module, DenseBackend if has_dense(module) else Backend) == []


RANKED_AS_DENSE = sorted({name for names in DENSE.values() for name in names})


@pytest.mark.parametrize("name", RANKED_AS_DENSE)
def test_what_is_ranked_as_dense_has_a_dense_kernel(name):
    assert faults(backend_module(name), DenseKernel) == []
    assert (name in BACKENDS) == hasattr(backend_module(name), "run")


def fake(**changes):
    """A module that keeps the contract, but for the changes; None: left out."""
    module = ModuleType("fake")
    names = {
        "ACCURACY": EXACT,
        "why_not": lambda call: None,
        "run": lambda q, k, v, plan, softmax_scale, return_lse: (q, None),
        "why_not_dense": lambda call: None,
        "dense": lambda q, k, v, softmax_scale: q,
    }
    for name, value in (names | changes).items():
        if value is not None:
            setattr(module, name, value)
    return module


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({}, []),
        ({"run": lambda q, k, v, plan, softmax_scale, return_lse, tiles=None: None}, []),
        ({"run": lambda q, k, v, plan, softmax_scale, return_lse, tiles: None}, ["run"]),
        ({"run": lambda q, k, v, plan, return_lse, softmax_scale: None}, ["run"]),
        ({"run": lambda q, k, v, plan: None}, ["run"]),
        ({"why_not": lambda device: None}, ["why_not"]),
        ({"why_not": None}, ["why_not"]),
        ({"dense": None}, ["dense"]),
        ({"why_not_dense": None}, ["why_not_dense"]),
        ({"ACCURACY": None}, ["ACCURACY"]),
        ({"ACCURACY": "exact"}, ["ACCURACY"]),
    ],
)
def test_one_that_breaks_the_contract_is_found(changes, expected):
    found = faults(fake(**changes), DenseBackend)
    assert len(found) == len(expected)
    assert all(name in fault for name, fault in zip(expected, found, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_an_exact_backend_cannot_allow_itself_more(dtype):
    Accuracy(True, {dtype: exact_tolerance(dtype)})
    Accuracy(False, {dtype: 0.05})
    with pytest.raises(ValueError, match="at most .* got 0.05"):
        Accuracy(True, {dtype: 0.05})


def test_the_tolerance_of_exact_backends_is_near_what_rounding_makes():
    assert EXACT.tolerance[torch.bfloat16] == 1.5 * 2**-7
    assert EXACT.tolerance[torch.float32] == EXACT.tolerance[torch.float16] == 2e-3


def test_a_backend_for_blackwell_has_a_name_everywhere_and_no_place_on_hopper(monkeypatch):
    forget()
    monkeypatch.setitem(sys.modules, f"{backends.__name__}.blackwell", fake())
    monkeypatch.setattr(backends, "BACKENDS", (*BACKENDS, "blackwell"))
    ranked = ("blackwell", *rankings.DATACENTER_BLACKWELL)
    monkeypatch.setattr(rankings, "DATACENTER_BLACKWELL", ranked)
    call, first = Call(CUDA, torch.bfloat16, 128, 128), []
    for gpu in ((9, 0), (10, 0)):
        monkeypatch.setattr(rankings, "capability", lambda device, gpu=gpu: gpu)
        first.append(ranking(call, 100_000)[0])
        assert ("blackwell" in ranking(call, 100_000)) == (gpu == (10, 0))
        check_backend_name("blackwell")
    assert first == ["triton", "blackwell"]
    forget()
