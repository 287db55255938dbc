"""Random weights, and how they are written to files."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from comfy.ops import disable_weight_init
from safetensors.torch import save_file

TEXT_WIDTH = 16  # of every text encoder
OPERATIONS = {"operations": disable_weight_init, "device": "cpu", "dtype": torch.float32}


@dataclass(frozen=True)
class StandIn:
    """The contents of a file: weights, and the config in its metadata (see standin_sizes)."""

    weights: dict[str, torch.Tensor]
    config: dict = field(default_factory=dict)


def write(files: dict[str, Callable[[], StandIn]], models: Path):
    """Write stand-ins below the folder `models`, where ComfyUI looks for the real ones."""
    for name, make in files.items():
        stand_in = make()
        (models / name).parent.mkdir(parents=True, exist_ok=True)
        metadata = {"config": json.dumps(stand_in.config)} if stand_in.config else None
        save_file(stand_in.weights, models / name, metadata)


def random_weights(model, seed: int = 0) -> dict[str, torch.Tensor]:
    """New random weights for a model. Matrices preserve the scale of their input."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, x in model.state_dict().items():
        if x.ndim > 1 and not name.endswith("gamma"):
            fan_in = x[0].numel()
            x = torch.randn(x.shape, generator=generator) * fan_in**-0.5
        else:
            x = torch.zeros(x.shape) if name.endswith("bias") else torch.ones(x.shape)
        weights[name] = x
    return weights


def in_bfloat16(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights in bfloat16, for files of half the size."""
    return {name: x.to(torch.bfloat16) for name, x in weights.items()}
