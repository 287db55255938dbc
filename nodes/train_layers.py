"""Radial Train Layers: MODEL -> MODEL of which Train LoRA trains only the named layers."""

import inspect
import logging
from collections.abc import Iterator

import torch
from comfy.patcher_extension import CallbacksMP, WrappersMP
from comfy_api.latest import io

from .comfyui import features
from .comfyui.state import is_training
from .inputs.checks import check_model, check_plain
from .training.layers import chosen_weights
from .training.prepare import prepare_for_training

KEY = "radial_attention_train_layers"

log = logging.getLogger("radial_attention")


class RadialTrainLayers(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="RadialTrainLayers",
            display_name="Radial Train Layers",
            category="radial attention",
            description="Train LoRA trains every layer of a model. Put this before it to train "
            "only some of them: by default the projections of self-attention, which the authors of "
            "Radial Attention train for longer videos.",
            search_aliases=["radial", "train lora", "target modules", "long video lora", "q k v o"],
            inputs=[
                io.Model.Input("model", tooltip="The model to train."),
                io.String.Input(
                    "layers",
                    default="q, k, v, o",
                    tooltip="Names, separated by commas. q, k, v and o are the self-attention "
                    "projections of the video in every block. Name other layers of the blocks by "
                    "their name or a part of it: ffn, cross_attn.q, img_mlp.0.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model, for Train LoRA. It samples as before.")],
        )

    @classmethod
    def execute(cls, model, layers) -> io.NodeOutput:
        check_model(model)
        check_plain(layers=layers)
        chosen = chosen_weights(model.get_model_object("diffusion_model"), str(layers))

        def freeze(patcher):
            if is_training():
                check_not_compiled(patcher)
                freeze_others(patcher, chosen)

        model = model.clone()
        prepare_for_training(model, KEY)
        model.add_callback_with_key(CallbacksMP.ON_PRE_RUN, KEY, freeze)
        return io.NodeOutput(model)


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
