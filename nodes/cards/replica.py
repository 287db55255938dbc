"""A model's copy on another card: how it is made, and where its weights come from."""

from collections.abc import Iterator
from typing import NamedTuple

import comfy.model_management
import comfy.ops
import torch

from ..families.registry import unwrapped

PREFIX = "diffusion_model."


class Blueprint(NamedTuple):
    """All that makes a diffusion model but its weights.

    cls: its class. config_class, config: ComfyUI's for the model, with the arguments of the class;
    its attributes apart, since it answers None for any it lacks. compute_dtype: that in which its
    layers compute; None for that of the weights.
    """

    cls: type
    config_class: type
    config: dict
    compute_dtype: torch.dtype | None


def blueprint(base) -> Blueprint:
    """base: ComfyUI's BaseModel."""
    config, cls = base.model_config, type(unwrapped(base.diffusion_model))
    return Blueprint(cls, type(config), vars(config), base.manual_cast_dtype)


def build(plan: Blueprint) -> torch.nn.Module:
    """The model as ComfyUI's BaseModel makes it, in host memory that nothing fills yet."""
    config = object.__new__(plan.config_class)
    vars(config).update(plan.config)
    operations = comfy.ops.pick_operations(
        config.unet_config.get("dtype"),
        plan.compute_dtype,
        fp8_optimizations=config.optimizations.get("fp8", False),
        model_config=config,
    )
    model = plan.cls(**config.unet_config, device="cpu", operations=operations)
    model.requires_grad_(False).eval()
    if comfy.model_management.force_channels_last():
        model.to(memory_format=torch.channels_last)
    return model


def fill(model: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Give a model its weights, and the buffers that no checkpoint has. It keeps the tensors.

    Raises ValueError if anything is missing or left over.
    """
    kept = model.state_dict().keys()
    buffers = {name: weights.pop(name) for name in list(weights) if name not in kept}
    for name in [name for name in buffers if name not in dict(model.named_buffers())]:
        weights[name] = buffers.pop(name)  # of quantized layers, which have no such keys when empty
    missing, unexpected = model.load_state_dict(weights, strict=False, assign=True)
    if missing or unexpected:
        raise ValueError(
            f"a copy of the model lacks {missing[:3]} or has {unexpected[:3]} too many"
        )
    for name, buffer in buffers.items():
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, buffer)
    model.requires_grad_(False)


def weights_of(patcher) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights of a loaded MODEL as ComfyUI has patched them, and its buffers.

    A weight that is patched when it is used, since the model is not, or not all, on its card, is
    patched here.
    """
    model = unwrapped(patcher.model.diffusion_model)
    later = {key for key in patcher.patches if key not in patcher.backup}
    done = {}
    for name, weight in model.state_dict().items():
        key = f"{PREFIX}{name}"
        if key in later and name not in done:
            new = patcher.patch_weight_to_device(
                key, device_to=patcher.load_device, return_weight=True
            )
            done.update(_pieces(name, new))
        yield name, done.pop(name, weight)
    kept = model.state_dict().keys()
    yield from ((name, buffer) for name, buffer in model.named_buffers() if name not in kept)


def _pieces(name: str, weight) -> dict[str, torch.Tensor]:
    """A weight as a checkpoint keeps it: a quantized one in several tensors."""
    if hasattr(weight, "state_dict"):
        return weight.state_dict(name)
    return {name: weight}


def weight_bytes(patcher) -> int:
    return comfy.model_management.module_size(unwrapped(patcher.model.diffusion_model))
