"""Which adapters Train LoRA trains: those of the chosen layers, the others are frozen."""

import inspect
import logging
from collections.abc import Iterator

import torch
from comfy.patcher_extension import WrappersMP

from ..comfyui import features

log = logging.getLogger("radial_attention")


def check_not_compiled(patcher) -> None:
    """Raises RuntimeError if Train LoRA would train nothing.

    From some version on it trains a model that it loads anew, and what is compiled is the one
    before: no gradient reaches the adapters.
    """
    compiled = features.load("torch.compile support", ".hook.compiled")
    loads_anew = "force_deepcopy" in inspect.signature(patcher.clone).parameters
    if not loads_anew or compiled is None:
        return
    if patcher.get_wrappers(WrappersMP.APPLY_MODEL, compiled.COMPILE_KEY):
        raise RuntimeError(
            "Radial Train Layers: take out the node that compiles the model. Train LoRA loads the "
            "model anew, and what is compiled is the one before: nothing would be trained."
        )


def freeze_others(patcher, chosen: frozenset[str]) -> None:
    """Before training: the adapters of all weights but the chosen ones take no gradients.

    Optimizers pass over parameters without one, so they stay as they are: without effect, or, of
    matrices, with that of the LoRA that training goes on with. chosen: ComfyUI's keys of weights.

    Raises RuntimeError if there are not as many adapters as chosen weights.
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
    """What Train LoRA trains: the name of a weight, or bias, and the adapter that is added to it.

    Most are on the patcher. In bypass mode those of matrices are not: they are hooks on modules.
    """
    for key, functions in patcher.weight_wrapper_patches.items():
        yield from ((key, each) for each in functions if isinstance(each, torch.nn.Module))
    try:
        from comfy.weight_adapter.bypass import BypassForwardHook
    except ImportError as error:
        features.is_missing("LoRA layers in bypass mode", error)
        return
    for name, module in patcher.model.named_modules():
        hook = getattr(module.forward, "__self__", None)
        while isinstance(hook, BypassForwardHook):
            if isinstance(hook.adapter, torch.nn.Module):
                yield f"{name}.weight", hook.adapter
            hook = getattr(hook.original_forward, "__self__", None)
