"""Puts the quality lab's folder on the path, and makes checkpoints of small models for it."""

import sys

import torch
from conftest import PACK

sys.path.insert(0, str(PACK / "benchmarks/quality"))

import model as lab_model


def saved(size, folder, sharper: float = 1.0):
    """Save an untrained model and return its path. Its head is random, so its output is not 0.

    sharper: a factor for the weights of q and k, so that attention matters.
    """
    net = lab_model.build(size)
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        net.head.head.weight.normal_(0, 0.05, generator=random)
        for block in net.blocks:
            block.self_attn.q.weight.mul_(sharper)
            block.self_attn.k.weight.mul_(sharper)
    path = folder / "made/model.safetensors"
    lab_model.save(net.state_dict(), path)
    return path
