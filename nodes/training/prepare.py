"""What ComfyUI's Train LoRA needs of a model, from the start of training to its end.

Gradient checkpointing runs a block again in the backward pass, with the arguments it had before. By
then these may have changed: all blocks share one transformer_options, in which the model writes the
index of the block that runs; and blocks of some models, HunyuanVideo's for one, add to their inputs
in place. The latter makes gradients wrong, or raises an error without checkpointing. So in training
each block gets options of its own, and inputs that += doesn't change.
"""

from functools import partial

import torch
from comfy.patcher_extension import CallbacksMP

from ..comfyui.option_keys import KEY
from ..comfyui.state import is_training
from ..families.registry import family_of
from .layers import blocks_of

HOOKS = f"{KEY}_hooks"


def prepare_for_training(model, key: str) -> None:
    """Make a MODEL do what training needs, whenever it is trained.

    key: of the callbacks. They replace all that have the same key.
    """
    for moment in (CallbacksMP.ON_PRE_RUN, CallbacksMP.ON_CLEANUP):
        model.remove_callbacks_with_key(moment, key)
    model.add_callback_with_key(CallbacksMP.ON_PRE_RUN, key, _begin)
    model.add_callback_with_key(CallbacksMP.ON_CLEANUP, key, _end)


def _begin(patcher):
    """Before a sampler run, which training is one of."""
    _end(patcher)  # the patch and Radial Train Layers may both have asked
    model = patcher.model.diffusion_model
    family = family_of(model)
    if not is_training() or family is None:
        return
    in_place = {each.name: each.changes_in_place for each in family.block_lists}
    hooks = [_hook(module, _own_options) for _, module in model.named_children()]
    for _, list_name, index, block in blocks_of(model):
        hooks.append(_hook(block, partial(_own_options, index=index)))
        if tokens := in_place[list_name]:
            hooks.append(_hook(block, partial(_unchanged_inputs, tokens)))
    patcher.set_attachments(HOOKS, hooks)


def _end(patcher):
    for hook in patcher.get_attachment(HOOKS) or ():
        hook.remove()
    patcher.remove_attachments(HOOKS)


def _hook(module, function):
    return module.register_forward_pre_hook(function, with_kwargs=True)


def _own_options(_module, args, kwargs, index: int | None = None):
    """index: the block's, for models that don't announce it."""
    if "transformer_options" not in kwargs or torch.compiler.is_compiling():
        return None
    options = dict(kwargs["transformer_options"])
    if index is not None:
        options.setdefault("block_index", index)
    return args, {**kwargs, "transformer_options": options}


def _unchanged_inputs(names: tuple[str, ...], _block, args, kwargs):
    """names: of the arguments that the block would change. Without a name, the first is one."""
    if torch.compiler.is_compiling():  # which makes in-place additions safe by itself
        return None
    tokens = {name: _unchanged(x) for name, x in kwargs.items() if name in names}
    return (*map(_unchanged, args[:1]), *args[1:]), {**kwargs, **tokens}


def _unchanged(x: torch.Tensor) -> torch.Tensor:
    return x.as_subclass(Unchanged)


class Unchanged(torch.Tensor):
    """A tensor to which += adds out of place. Anything else computed from it is a plain tensor."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __iadd__(self, other):
        return (self.as_subclass(torch.Tensor) + other).as_subclass(Unchanged)
