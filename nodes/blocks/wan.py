"""Wan's block and its self-attention.

Each function looks whether a call is its own and returns what computes it; else it raises, and
nothing has happened yet.
"""

from functools import partial

import comfy.ldm.wan.model as comfy_wan
from comfy.model_management import cast_to

from ...radial_core import fused
from .fits import (
    eps_of,
    plain_eps,
    require,
    require_rotations,
    require_taken,
    weights_of,
)

NONE = {}


def block(module, x, e, freqs, context, context_img_len=257, transformer_options=NONE):
    """x: (b, s, c). e: what time says, (b, 6, c), or (b, 1, 6, c) where all tokens share a time."""
    require(e.ndim == 3 or e.shape[1] == 1)
    require_taken(x, e)
    eps = plain_eps(module.norm1), plain_eps(module.norm2)
    time = cast_to(module.modulation, dtype=x.dtype, device=x.device) + e.reshape(-1, 6, x.shape[2])
    text = partial(
        module.cross_attn,
        context=context,
        context_img_len=context_img_len,
        transformer_options=transformer_options,
    )
    return partial(_block, module, x.contiguous(), time, freqs, text, eps, transformer_options)


def _block(module, x, time, freqs, attend_to_text, eps, options):
    shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = time.unsqueeze(2).unbind(1)  # (b, 1, c)
    normed = fused.layer_norm_modulate(x, scale, shift, eps[0])
    y = module.self_attn(normed, freqs, transformer_options=options)
    x = fused.add_gated(x, y, gate)
    del normed, y
    x = x + attend_to_text(module.norm3(x))
    x = _patched("attn2_patch", options, x).contiguous()
    y = module.ffn(fused.layer_norm_modulate(x, mlp_scale, mlp_shift, eps[1]))
    return fused.add_gated(x, y, mlp_gate)


def self_attention(module, x, freqs, transformer_options=NONE):
    """x: (b, s, c). freqs: (1, s, 1, d / 2, 2, 2)."""
    norms, freqs = (module.norm_q, module.norm_k), freqs.squeeze(2)
    weights = weights_of(x, *norms)
    require_taken(x, *weights)
    require_rotations(freqs, x, x.shape[1], module.head_dim)
    eps = [eps_of(norm, x) for norm in norms]
    return partial(_self_attention, module, x, freqs, weights, eps, transformer_options)


def _self_attention(module, x, freqs, weights, eps, options):
    heads = (module.num_heads, module.head_dim)
    q = fused.rms_norm_rope(module.q(x).unflatten(2, heads), weights[0], freqs, eps[0])
    k = fused.rms_norm_rope(module.k(x).unflatten(2, heads), weights[1], freqs, eps[1])
    y = comfy_wan.optimized_attention(
        q.flatten(2), k.flatten(2), module.v(x), heads=heads[0], transformer_options=options
    )
    return module.o(_patched("attn1_patch", options, y, q=q, k=k))


def _patched(name: str, options: dict, x, **seen):
    """What other nodes make of x (b, s, c) at a place of the block that ComfyUI offers them."""
    for patch in options.get("patches", NONE).get(name, ()):
        x = patch({"x": x, **seen, "transformer_options": options})
    return x
