"""The pack ComfyUI-RadialAttn: in its steps it replaces the function that Wan calls."""

from unittest.mock import patch

import comfy.ldm.wan.model
import torch
from comfy.ldm.modules.attention import wrap_attn

from .functions import as_asked, heads_first
from .sparse_attention import calls, half_of

MODULE = "/home/me/ComfyUI/custom_nodes/ComfyUI-RadialAttn.nodes"


def get_radial_attn_func(original):
    def radial_attn_func(q, k, v, heads, mask=None, **kwargs):
        if q.shape != k.shape:
            return original(q, k, v, heads)
        return as_asked(half_of(*heads_first(heads, False, q, k, v)), False)

    radial_attn_func.__module__ = MODULE
    return torch.compiler.disable()(wrap_attn(radial_attn_func))


def patch_radial_attn(model):
    """The node."""
    calls.clear()
    model = model.clone()

    def wrapper(apply, given):
        original = comfy.ldm.wan.model.optimized_attention
        theirs = get_radial_attn_func(original)
        with patch.object(comfy.ldm.wan.model, "optimized_attention", theirs):
            return apply(given["input"], given["timestep"], **given["c"])

    model.set_model_unet_function_wrapper(wrapper)
    return model
