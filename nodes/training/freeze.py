"""Freezes the adapters of all layers that Train LoRA is not to train."""

import inspect
import logging
from collections.abc import Iterator

import torch
from comfy.patcher_extension import WrappersMP

from ..comfyui import features

log = logging.getLogger("radial_attention")


def check_not_compiled(patcher) -> None:
    """Raises RuntimeError if Train LoRA would train nothing.

    Newer versions of Train LoRA train a fresh copy of the model, while the compiled code runs the
    old one, so no gradient reaches the adapters.
    """
    compiled = features.load("torch.compile support", ".hook.compiled")
    trains_a_copy = "force_deepcopy" in inspect.signature(patcher.clone).parameters
    if not trains_a_copy or compiled is None:
        return
    if patcher.get_wrappers(WrappersMP.APPLY_MODEL, compiled.COMPILE_KEY):
        raise RuntimeError(
            "Radial Train Layers: remove the node that compiles the model. Train LoRA trains a "
            "fresh copy of the model, but the compiled code runs the old one: nothing would be "
            "trained."
        )


def freeze_others(patcher, chosen: frozenset[str]) -> None:
    """Before training: turn gradients off for the adapters of all weights but the chosen ones.

    Optimizers skip parameters without a gradient, so these adapters keep their state: no effect, or
    that of the LoRA whose training continues. chosen: ComfyUI's keys of weights.

    Raises RuntimeError if a chosen weight has no adapter.
    """
    trained, others = set(), 0
    for key, adapter in _adapters(patcher):
        if key in chosen:
            trained.add(key)
        else:
            adapter.requires_grad_(False)
            others += 1
    if missing := chosen - trained:
        raise RuntimeError(
            f"Radial Train Layers: Train LoRA has no adapter for {len(missing)} of {len(chosen)} "
            f"layers, such as {min(missing)}. This version of ComfyUI keeps them elsewhere."
        )
    log.info("Radial Train Layers: %d adapters train, %d others don't", len(trained), others)


def _adapters(patcher) -> Iterator[tuple[str, torch.nn.Module]]:
    """What Train LoRA trains: the name of a weight or bias, and the adapter that is added to it.

    Most are on the patcher. In bypass mode those of matrices are hooks on modules instead.
    """
    for key, functions in patcher.weight_wrapper_patches.items():
        yield from ((key, each) for each in functions if isinstance(each, torch.nn.Module))
    try:
        from comfy.weight_adapter.bypass import BypassForwardHook
    except ImportError as error:
        features.note_missing("LoRA layers in bypass mode", error)
        return
    for name, module in patcher.model.named_modules():
        hook = getattr(module.forward, "__self__", None)
        while isinstance(hook, BypassForwardHook):
            if isinstance(hook.adapter, torch.nn.Module):
                yield f"{name}.weight", hook.adapter
            hook = getattr(hook.original_forward, "__self__", None)
