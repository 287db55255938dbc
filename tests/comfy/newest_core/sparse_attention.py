"""The node Model Sparse Attention: an override, and blocks of MiniMax H3 that ask no hook."""

import torch
from comfy.patcher_extension import CallbacksMP
from conftest import SLOT

from .functions import as_asked, heads_first

MODULE = "comfy_extras.nodes_sparse_attention"
calls = []  # shapes of q of the sparse calls


def half_of(q, k, v):
    """A sparse attention: to every second key."""
    calls.append(q.shape)
    return torch.nn.functional.scaled_dot_product_attention(q, k[..., ::2, :], v[..., ::2, :])


class SparseAttnPatch:
    """sigmas: from the first to the last at which calls are sparse. installed: its overrides."""

    def __init__(self, *sigmas: float):
        self.sigmas, self.installed = sigmas, set()

    def is_dense(self, options: dict) -> bool:
        start, end = self.sigmas
        return not start >= float(options["sigmas"][0]) >= end


def make_attention_override(patch: SparseAttnPatch, previous):
    def override(
        func,
        q,
        k,
        v,
        heads,
        mask=None,
        attn_precision=None,
        skip_reshape=False,
        skip_output_reshape=False,
        **kwargs,
    ):
        if mask is not None or q.shape != k.shape or patch.is_dense(kwargs["transformer_options"]):
            kwargs.update(mask=mask, attn_precision=attn_precision, skip_reshape=skip_reshape)
            kwargs.update(skip_output_reshape=skip_output_reshape)
            if previous is None:
                return func(q, k, v, heads, **kwargs)
            return previous(func, q, k, v, heads, **kwargs)
        return as_asked(half_of(*heads_first(heads, skip_reshape, q, k, v)), skip_output_reshape)

    override.__module__ = MODULE
    return override


def install_override(patch: SparseAttnPatch, options: dict) -> None:
    """On top of what is on the hook, unless that is its own."""
    current = options.get(SLOT)
    if current not in patch.installed:
        options[SLOT] = make_attention_override(patch, current)
        patch.installed.add(options[SLOT])


def make_h3_block_patch(previous):
    """A replaced block: its attention never asks the hook.

    The real one hands the block another attention. H3 of 0.30 takes none: see
    `blocks_take_an_attention`.
    """

    def block_patch(args, extra):
        options = {**args["transformer_options"], "attention": half_of}
        args = {**args, "transformer_options": options}
        return extra["original_block"](args) if previous is None else previous(args, extra)

    block_patch.__module__ = MODULE
    return block_patch


def blocks_take_an_attention(monkeypatch) -> None:
    """MiniMax H3's blocks run the attention in their options, if there is one."""
    import comfy.ldm.minimax.model as h3

    forward = h3.Attention.forward

    def with_attention(self, x, rope_freqs=None, transformer_options=None):
        attention = transformer_options.get("attention")
        if attention is None:
            return forward(self, x, rope_freqs, transformer_options=transformer_options)
        q, k, v = self.qkv_proj(x).unflatten(-1, (3, self.heads, -1)).permute(1, 2, 0, 3)[:, None]
        return self.out_proj(as_asked(attention(q, k, v), False)[0])

    monkeypatch.setattr(h3.Attention, "forward", with_attention)


def model_sparse_attention(model, start: float = 1e9, end: float = 0.0):
    """The node. start, end: sigmas."""
    calls.clear()
    model, patch = model.clone(), SparseAttnPatch(start, end)
    install_override(patch, model.model_options["transformer_options"])

    def prepare_state(_patcher, _timestep, model_options=None):
        if model_options is not None:  # as in 0.16.3
            install_override(patch, model_options["transformer_options"])

    model.add_callback_with_key(CallbacksMP.ON_PREPARE_STATE, "block_sparse", prepare_state)
    network = model.get_model_object("diffusion_model")
    if type(network).__name__ == "MiniMaxH3Model":
        replaced = model.model_options["transformer_options"].get("patches_replace", {})
        for i in range(len(network.blocks)):
            before = replaced.get("dit", {}).get(("double_block", i))
            model.set_model_patch_replace(make_h3_block_patch(before), "dit", "double_block", i)
    return model
