"""A model's copy on another card: how it is made, and where its weights come from."""

from collections.abc import Iterator
from typing import NamedTuple

import comfy.model_management
import comfy.ops
import comfy.utils
import torch

from ..families.registry import unwrapped
from .patched_weights import in_model_dtype, is_patched_later, patched

PREFIX = "diffusion_model."


class Blueprint(NamedTuple):
    """All that makes a diffusion model but its weights.

    cls: its class. config_class, config: ComfyUI's for the model, with the arguments of the class;
    its attributes apart, since it answers None for any it lacks. compute_dtype: that in which its
    layers compute; None for that of the weights. is_forced: whether a node chose it, so that
    quantized layers too compute in it.
    """

    cls: type
    config_class: type
    config: dict
    compute_dtype: torch.dtype | None
    is_forced: bool


def blueprint(base) -> Blueprint:
    """base: ComfyUI's BaseModel."""
    config, cls = base.model_config, type(unwrapped(base.diffusion_model))
    is_forced = bool(getattr(base.current_patcher, "force_cast_weights", False))
    return Blueprint(cls, type(config), vars(config), base.manual_cast_dtype, is_forced)


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
    if plan.is_forced:
        for module in model.modules():
            module.comfy_force_cast_weights = True
    return model


def fill(model: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Give a model its weights, and the buffers that no checkpoint has. It keeps the tensors.

    Raises ValueError if anything is missing or left over.
    """
    _prepare(model, weights)
    buffers = {name: weights.pop(name) for name in _without_checkpoint(model) if name in weights}
    missing, unexpected = model.load_state_dict(weights, strict=False, assign=True)
    if missing or unexpected:
        raise ValueError(
            f"a copy of the model lacks {missing[:3]} or has {unexpected[:3]} too many"
        )
    for name, buffer in buffers.items():
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, buffer)
    model.requires_grad_(False)


def _without_checkpoint(model: torch.nn.Module) -> Iterator[str]:
    """The names of buffers that a state dict leaves out."""
    for place, module in model.named_modules():
        for name in module._non_persistent_buffers_set:
            yield f"{place}.{name}".lstrip(".")


def _prepare(model: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Make a model take the weights as they are."""
    device = next(iter(weights.values())).device
    for module in model.modules():
        # A quantized layer puts its weights on the device that it was made for.
        if "device" in getattr(module, "factory_kwargs", {}):
            module.factory_kwargs["device"] = device
    for name, x in weights.items():
        if name.endswith(".comfy_quant"):
            weights[name] = x.cpu()  # text, which a quantized layer reads with NumPy
    for name, parameter in list(model.named_parameters()):
        # Some LoRAs bring a layer more inputs.
        if name in weights and weights[name].shape != parameter.shape:
            comfy.utils.set_attr_param(model, name, weights[name])


def weights_of(patcher) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights of a loaded MODEL as ComfyUI has patched them, and its buffers.

    A weight that is patched when it is used, since the model is not, or not all, on its card, is
    patched here.
    """
    model = unwrapped(patcher.model.diffusion_model)
    done = {}
    for name, weight in model.state_dict().items():
        key = f"{PREFIX}{name}"
        if name not in done and is_patched_later(patcher, key):
            done.update(_pieces(name, patched(patcher, key)))
        yield name, done.pop(name) if name in done else _as_used(patcher, model, name, weight)
    buffers = dict(model.named_buffers())
    for name in _without_checkpoint(model):
        if name in buffers:
            yield name, _as_used(patcher, model, name, buffers[name])


def _as_used(patcher, model: torch.nn.Module, name: str, x: torch.Tensor) -> torch.Tensor:
    if not patcher.is_dynamic() or f"{PREFIX}{name}" in patcher.backup:
        return x  # it is on the card already
    owner, _, attribute = name.rpartition(".")
    return in_model_dtype(model.get_submodule(owner), attribute, x)


def _pieces(name: str, weight) -> dict[str, torch.Tensor]:
    """A weight as a checkpoint keeps it: a quantized one in several tensors."""
    if hasattr(weight, "state_dict"):
        return weight.state_dict(name)
    return {name: weight}


def weight_bytes(patcher) -> int:
    return comfy.model_management.module_size(unwrapped(patcher.model.diffusion_model))
