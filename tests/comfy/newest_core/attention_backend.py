"""The node Model Attention Backend: it replaces what is on the hook."""

from comfy.patcher_extension import CallbacksMP
from conftest import SLOT


def set_model_optimized_attention(options: dict, function) -> None:
    """ModelPatcher's method. options: transformer_options."""

    def optimized_attention_override(_, *args, **kwargs):
        return function(*args, **kwargs)

    if getattr(function, "container_function", None) is not None:
        optimized_attention_override.container_function = function.container_function
    options[SLOT] = optimized_attention_override


def model_attention_backend(model, function):
    """The node. function: one of ComfyUI's."""
    model = model.clone()
    set_model_optimized_attention(model.model_options["transformer_options"], function)
    return model


def at_each_step(model, function):
    """A node that does the same at each step, as packs do that want the last word."""
    model = model.clone()

    def prepare(_patcher, _timestep, model_options):
        set_model_optimized_attention(model_options["transformer_options"], function)

    model.add_callback_with_key(CallbacksMP.ON_PREPARE_STATE, "test", prepare)
    return model
