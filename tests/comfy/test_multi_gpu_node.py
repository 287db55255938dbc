"""Radial Multi-GPU: which cards it takes, what it refuses, and what it says."""

import logging
import urllib.request

import pytest
import torch
from api import get, queue, wait
from conftest import pack_module
from whole_graph import OURS, around, whole_graph

import nodes

pytestmark = pytest.mark.oldest

CUDA = torch.device("cuda:0")


@pytest.fixture
def devices():
    return pack_module("nodes.cards.devices")


@pytest.fixture
def gpus(monkeypatch):
    """gpus(count): that many GPUs are in this machine, and NCCL is there."""

    def gpus(count, nccl=True):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
        monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: nccl)

    return gpus


@pytest.fixture
def attached(monkeypatch):
    """What the node asked of the engine, which does nothing here."""
    calls = []
    engine = pack_module("nodes.cards.attach")
    monkeypatch.setattr(engine, "attach", lambda *arguments: calls.append(arguments))
    return calls


def multi_gpu(model, **inputs):
    return nodes.NODE_CLASS_MAPPINGS["RadialMultiGPU"].execute(model, **inputs)


def said(output):
    (text,) = output.ui["text"]
    return text


@pytest.mark.parametrize(
    "own, wanted, indices, why",
    [
        ("cuda:0", 0, [0, 1, 2, 3], None),
        ("cuda:2", 0, [2, 0, 1, 3], None),
        ("cuda", 3, [1, 0, 2], None),
        ("cuda:3", 2, [3, 0], None),
        ("cuda:1", 1, [1], None),
        ("cuda:1", 5, [1, 0, 2, 3], "5 GPUs were asked for, ComfyUI sees 4"),
    ],
)
def test_the_models_own_card_is_the_first(devices, gpus, own, wanted, indices, why):
    gpus(4)
    cards, found = devices.cards_of(torch.device(own), wanted)
    assert cards == [torch.device("cuda", index) for index in indices] and found == why


@pytest.mark.parametrize("wanted", [0, 2])
@pytest.mark.parametrize(
    "device, count, nccl, platform, why",
    [
        ("cuda:0", 1, True, "linux", "ComfyUI sees no other GPU"),
        ("cuda:0", 2, False, "win32", "NCCL isn't there on Windows"),
        ("cuda:0", 2, False, "linux", "this torch has no NCCL"),
        ("mps", 2, True, "darwin", "Apple GPUs can't share a video"),
        ("xpu", 2, True, "linux", "Intel GPUs can't share a video"),
        ("privateuseone", 2, True, "win32", "DirectML can't share a video"),
        ("meta", 2, True, "linux", "meta can't share a video"),
        ("cpu", 2, True, "linux", "the model is on the CPU"),
    ],
)
def test_one_card_and_why(devices, gpus, monkeypatch, device, count, nccl, platform, why, wanted):
    gpus(count, nccl)
    monkeypatch.setattr(devices.sys, "platform", platform)
    device = torch.device(device)
    assert devices.cards_of(device, wanted) == ([device], why)
    assert devices.cards_of(device, 1) == ([device], None)


def test_a_torch_without_distributed(devices, gpus, monkeypatch):
    gpus(2)
    monkeypatch.setattr(torch.distributed, "is_available", lambda: False)
    monkeypatch.delattr(torch.distributed, "is_nccl_available")
    assert devices.cards_of(CUDA, 0) == ([CUDA], "this torch has no NCCL")


@pytest.mark.parametrize(
    "wanted, number, why",
    [(0, 3, None), (2, 2, None), (1, 1, None), (4, 3, "4 GPUs were asked for, ComfyUI sees 3")],
)
def test_cards_of_the_cpu_for_tests(devices, monkeypatch, wanted, number, why):
    monkeypatch.setenv(devices.CPU_CARDS, "3")
    cpu = torch.device("cpu")
    assert devices.cards_of(cpu, wanted) == ([cpu] * number, why)


def test_bad_values_for_the_cpu_are_one_card(devices, monkeypatch):
    cpu = torch.device("cpu")
    for value in ("", "x", "-2", "1", "0"):
        monkeypatch.setenv(devices.CPU_CARDS, value)
        assert devices.cards_of(cpu, 0)[0] == [cpu]


def test_the_engine_gets_a_clone_and_the_number(wan, attached, monkeypatch, devices, caplog):
    monkeypatch.setenv(devices.CPU_CARDS, "2")
    with caplog.at_level(logging.WARNING, "radial_attention"):
        output = multi_gpu(wan, gpus=2)
    ((model, number, _),) = attached
    assert output.args[0] is model and model is not wan and model.is_clone(wan)
    assert number == 2 and said(output) == "Runs on 2 GPUs: cpu, cpu." and not caplog.messages


def test_a_missing_gpu_is_told_on_the_node_and_in_the_log(
    wan, attached, monkeypatch, devices, caplog
):
    monkeypatch.setenv(devices.CPU_CARDS, "2")
    with caplog.at_level(logging.WARNING, "radial_attention"):
        text = said(multi_gpu(wan, gpus=3))
    assert text == "Runs on 2 GPUs: cpu, cpu. 3 GPUs were asked for, ComfyUI sees 2."
    assert [text in message for message in caplog.messages] == [True]
    monkeypatch.delenv(devices.CPU_CARDS)
    assert said(multi_gpu(wan)) == "Runs on 1 GPU: the model is on the CPU."
    assert said(multi_gpu(wan, gpus=1)) == "Runs on 1 GPU."
    assert len(attached) == 3  # an earlier node of this kind must not stay in force


def test_without_the_engine_the_model_runs_as_it_is(wan, monkeypatch):
    node = pack_module("nodes.multi_gpu")
    monkeypatch.setattr(node.features, "load", lambda *_: None)
    output = multi_gpu(wan)
    assert output.args[0].is_clone(wan) and "this version of ComfyUI or torch" in said(output)


@pytest.mark.parametrize(
    "inputs, message",
    [
        ({"model": "wan"}, "model must come from a model loader, got 'wan'"),
        ({"gpus": -1}, "gpus must be a whole number from 0 to 64, got -1"),
        ({"gpus": 65}, "gpus must be a whole number from 0 to 64, got 65"),
        ({"gpus": 2.0}, "gpus must be a whole number from 0 to 64, got 2.0"),
        ({"gpus": True}, "gpus must be a whole number from 0 to 64, got True"),
        ({"gpus": [2]}, "gpus must be a whole number from 0 to 64, got"),
    ],
)
def test_bad_inputs_are_one_clear_error(wan, attached, inputs, message):
    with pytest.raises(ValueError, match=message):
        multi_gpu(**{"model": wan, **inputs})
    assert attached == []


def test_a_graph_with_it_runs_and_has_the_text_in_its_history(server):
    graph = whole_graph()
    node_id, _ = OURS["RadialMultiGPU"]
    prompt = queue(server, around(graph, "4"))
    assert wait(server, prompt).kind == "done"
    outputs = get(server, f"/history/{prompt}")[prompt]["outputs"]
    assert outputs[node_id]["text"] == ["Runs on 1 GPU: the model is on the CPU."]


def test_the_page_gets_the_node_with_its_help(server):
    info = get(server, "/object_info/RadialMultiGPU")["RadialMultiGPU"]
    assert (info["display_name"], info["output"]) == ("Radial Multi-GPU", ["MODEL"])
    # Saved graphs are forever: append, never reorder or rename.
    assert list(info["input"]["required"]) == ["model", "gpus"]
    assert info["input"]["required"]["gpus"][1]["default"] == 0
    assert {"multi gpu", "two gpus", "ulysses"} <= set(info["search_aliases"])
    with urllib.request.urlopen(f"{server.url}/extensions/radial-attention/docs/RadialMultiGPU.md"):
        pass
