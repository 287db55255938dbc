"""What ComfyUI's Train LoRA needs of a model, from the start of training to its end.

Gradient checkpointing runs a block once more in the backward pass, with what it got before. By then
much of that says something else: the model writes into the transformer_options which block it is
in, and all blocks share them; HunyuanVideo's blocks add to their inputs in place, which makes
gradients wrong, or fail where nothing is checkpointed. So in training each block gets options of
its own, and inputs that += does not change.
"""

from functools import partial

import torch
from comfy.patcher_extension import CallbacksMP

from ..comfyui.option_keys import KEY
from ..comfyui.state import is_training
from ..families.registry import family_of
from .layers import blocks_of

HOOKS = f"{KEY}_hooks"
CHANGES = ("double_blocks.", "single_blocks.")  # blocks that change their inputs: their tokens,
TOKENS = ("img", "txt", "x")  # which go by these names, or come first


def prepare_for_training(model, key: str) -> None:
    """Have a MODEL do what training needs, whenever it is trained.

    key: of the callbacks, which take the place of all that have it.
    """
    for moment in (CallbacksMP.ON_PRE_RUN, CallbacksMP.ON_CLEANUP):
        model.remove_callbacks_with_key(moment, key)
    model.add_callback_with_key(CallbacksMP.ON_PRE_RUN, key, _begin)
    model.add_callback_with_key(CallbacksMP.ON_CLEANUP, key, _end)


def _begin(patcher):
    """Before a sampler run, which training is one of."""
    _end(patcher)  # the patch and Radial Train Layers may both have asked
    model = patcher.model.diffusion_model
    if not is_training() or family_of(model) is None:
        return
    hooks = [_hook(module, _own_options) for _, module in model.named_children()]
    for path, index, block in blocks_of(model):
        hooks.append(_hook(block, partial(_own_options, index=index)))
        if path.startswith(CHANGES):
            hooks.append(_hook(block, _unchanged_inputs))
    patcher.set_attachments(HOOKS, hooks)


def _end(patcher):
    for hook in patcher.get_attachment(HOOKS) or ():
        hook.remove()
    patcher.remove_attachments(HOOKS)


def _hook(module, function):
    return module.register_forward_pre_hook(function, with_kwargs=True)


def _own_options(_module, args, kwargs, index: int | None = None):
    """index: of a block, for models that don't announce it."""
    if "transformer_options" not in kwargs or torch.compiler.is_compiling():
        return None
    options = dict(kwargs["transformer_options"])
    if index is not None:
        options.setdefault("block_index", index)
    return args, {**kwargs, "transformer_options": options}


def _unchanged_inputs(_block, args, kwargs):
    if torch.compiler.is_compiling():  # which takes care of that by itself
        return None
    tokens = {name: _unchanged(x) for name, x in kwargs.items() if name in TOKENS}
    return (*map(_unchanged, args[:1]), *args[1:]), {**kwargs, **tokens}


def _unchanged(x: torch.Tensor) -> torch.Tensor:
    return x.as_subclass(Unchanged)


class Unchanged(torch.Tensor):
    """A tensor to which += adds out of place. What else is computed from it is a plain tensor."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    def __iadd__(self, other):
        return (self.as_subclass(torch.Tensor) + other).as_subclass(Unchanged)
