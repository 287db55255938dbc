"""The quality lab's folder on the path, and checkpoints of small models for it."""

import sys

import torch
from conftest import PACK

sys.path.insert(0, str(PACK / "benchmarks/quality"))

import model as lab_model


def saved(size, folder, sharper: float = 1.0):
    """The path of an untrained model with a head, so that its output is not 0.

    sharper: what the weights of q and k are multiplied by, so that attention matters.
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
