"""8-bit attention on a CPU: a backend of ours, and what a person may choose for dense attention.

The functions have the names and the structure of ComfyUI's, KJNodes' and SageAttention's.
"""

import sys
from types import ModuleType

import comfy.ldm.modules.attention as comfy_attention
import torch
from comfy.ldm.modules.attention import attention_pytorch, wrap_attn
from conftest import pack_module
from torch.nn.functional import scaled_dot_product_attention

TOKENS = 540  # of the video that `sample` makes; a backend's proof has fewer


def rounded(x):
    """x with each row rounded to 255 levels."""
    step = x.abs().amax(dim=-1, keepdim=True) / 127
    return torch.where(step > 0, (x / step).round() * step, x)


def register_backend(monkeypatch):
    """Registers "rounded", the fastest backend, which is 8 bit. Returns the module.

    Afterwards, `forget` must be called.

    calls: "sparse" or "dense" for each call of a model. reason: why it declines.
    """
    backends, ranking = (pack_module(f"radial_core.{n}") for n in ("backends", "backends.ranking"))
    contract = pack_module("radial_core.backends.contract")
    oracle = pack_module("radial_core.backends.reference")
    module = ModuleType(f"{backends.__name__}.rounded")
    module.calls, module.reason = [], None
    module.ACCURACY = contract.Accuracy(False, {torch.float32: 0.05, torch.bfloat16: 0.05})

    def why_not(call):
        return module.reason or ("rounded has no backward pass" if call.grad else None)

    def run(q, k, v, plan, softmax_scale, return_lse):
        module.calls += ["sparse"] * (q.shape[1] == TOKENS)
        return oracle.run(rounded(q), rounded(k), v, plan, softmax_scale, return_lse)

    def dense(q, k, v, softmax_scale):
        module.calls += ["dense"] * (q.shape[1] == TOKENS)
        q, k, v = (x.transpose(1, 2) for x in (rounded(q), rounded(k), v))
        return scaled_dot_product_attention(q, k, v, scale=softmax_scale).transpose(1, 2)

    module.run, module.dense = run, dense
    module.why_not = module.why_not_dense = why_not
    forget()
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(backends, "BACKENDS", (*backends.BACKENDS, "rounded"))
    monkeypatch.setattr(ranking, "_fastest_first", lambda call, tokens: ("rounded", "sdpa"))
    monkeypatch.setattr(ranking, "_fastest_dense_first", lambda call: ("rounded",))
    return module


def forget():
    """What a process remembers of backends."""
    pack_module("radial_core.backends").backend_module.cache_clear()
    failures, proof = pack_module("radial_core.failures"), pack_module("radial_core.proof")
    for memory in (
        pack_module("radial_core.attention")._choices,
        pack_module("radial_core.dense")._choices,
        failures._reasons,
        failures._failed_runs,
        failures._logged,
        proof._verdicts,
        proof._tries,
    ):
        memory.clear()


def install_sage(monkeypatch):
    """Installs a stand-in of the package sageattention. Returns its kernel.

    calls: how many there were.
    """
    package = ModuleType("sageattention")

    def sageattn(q, k, v, tensor_layout="HND", is_causal=False, sm_scale=None, **kwargs):
        sageattn.calls += 1
        if tensor_layout == "NHD":
            q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        out = scaled_dot_product_attention(rounded(q), rounded(k), v, scale=sm_scale)
        return out.transpose(1, 2) if tensor_layout == "NHD" else out

    sageattn.__module__, sageattn.calls = "sageattention.core", 0
    package.sageattn = sageattn
    monkeypatch.setitem(sys.modules, "sageattention", package)
    # As if it had been installed when ComfyUI started.
    monkeypatch.setattr(comfy_attention, "sageattn", sageattn, raising=False)
    return sageattn


def attention_of(kernel, name):
    """A function for ComfyUI's hook, with its decorator, that runs a kernel."""

    @wrap_attn
    def attention(q, k, v, heads, mask=None, skip_reshape=False, skip_output_reshape=False, **more):
        if not skip_reshape:
            q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        out = kernel(q, k, v)
        return out if skip_output_reshape else out.transpose(1, 2).flatten(2)

    attention.__name__ = attention.__wrapped__.__name__ = name
    return attention


def patch_sage_kj(kernel):
    """The override of KJNodes' Patch Sage Attention KJ."""
    sage_func = torch.compiler.disable()(lambda *qkv: kernel(*qkv))
    new_attention = attention_of(sage_func, "attention_sage")

    def attention_override_sage(func, *args, **kwargs):
        return new_attention.__wrapped__(*args, **kwargs)

    return attention_override_sage


def patch_flash_kj():
    """That of its Patch Flash Attention KJ: exact, whatever ComfyUI's function is."""
    new_attention = attention_of(scaled_dot_product_attention, "attention_flash")

    def attention_override_flash(func, *args, **kwargs):
        return new_attention.__wrapped__(*args, **kwargs)

    return attention_override_flash


def kitchen():
    """ComfyUI's function for comfy-kitchen's int8, which versions newer than 0.30 have."""

    def int8_attention(q, k, v):
        return scaled_dot_product_attention(rounded(q), rounded(k), v)

    int8_attention.__module__ = "comfy_kitchen"
    return attention_of(int8_attention, "attention_comfy_kitchen_int8")


def model_attention_backend(optimized_attention):
    """The override of ComfyUI's node Model Attention Backend."""

    def optimized_attention_override(_, *args, **kwargs):
        return optimized_attention(*args, **kwargs)

    return optimized_attention_override


def passing_on(func, *args, **kwargs):
    return func(*args, **kwargs)


class ComfyAttention(torch.nn.Module):
    """A part of a model, in versions newer than 0.30: what its checkpoint chose."""

    def __init__(self, function):
        super().__init__()
        self.function = function


EXACT = attention_pytorch.__wrapped__
