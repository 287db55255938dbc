"""Radial Multi-GPU on a CPU: real processes, which exchange over Gloo."""

import os
import re
from contextlib import contextmanager

import pytest
import zoo
from conftest import pack_module
from zoo.wan import video, wan

import nodes

devices = pack_module("nodes.cards.devices")
team = pack_module("nodes.cards.team")


@contextmanager
def cards_on_the_cpu(number: int = 2):
    """ComfyUI sees that many. A team that starts in it ends with it."""
    before = os.environ.get(devices.CPU_CARDS)
    os.environ[devices.CPU_CARDS] = str(number)
    try:
        yield
    finally:
        team.end_all()
        os.environ.pop(devices.CPU_CARDS)
        if before is not None:
            os.environ[devices.CPU_CARDS] = before


@pytest.fixture(scope="module", autouse=True)
def cards():
    """Two, for the tests of a file that imports this."""
    with cards_on_the_cpu():
        yield


def split(model, gpus: int = 0):
    """The node, run on a model."""
    return nodes.NODE_CLASS_MAPPINGS["RadialMultiGPU"].execute(model, gpus).args[0]


def wide(seed: int = 0, **sizes):
    """A Wan with 3 heads, so that two cards have different shares."""
    return wan(seed=seed, **{"dim": 384, "num_heads": 3, "num_layers": 2, **sizes})


def sample(model, inputs=None, **options):
    return zoo.sample(model, inputs or video(), **options)


def said(caplog) -> list[str]:
    """What the log has of Radial Multi-GPU since it was last asked."""
    begin = "Radial Multi-GPU: "
    lines = [text.removeprefix(begin) for text in caplog.messages if text.startswith(begin)]
    caplog.clear()
    return lines


def split_passes(caplog) -> int:
    """How many passes of the last run several cards computed, by its last line in the log."""
    found = re.match(r"\d GPUs, (\d+) pass", said(caplog)[-1])
    return int(found[1]) if found else 0
