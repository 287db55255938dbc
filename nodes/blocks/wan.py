"""Wan's block and its self-attention. They return None for what is not theirs."""

import comfy.ldm.wan.model as comfy_wan
from comfy.model_management import cast_to

from ...radial_core import fused
from .fits import eps_of, takes, weights_of

NONE = {}


def block(module, x, e, freqs, context, context_img_len=257, transformer_options=NONE):
    """x: (b, s, c). e: what time says, (b, 6, c), or (b, 1, 6, c) where all tokens share a time."""
    if (e.ndim == 4 and e.shape[1] != 1) or fused.why_not(x, e) is not None:
        return None
    e = e.flatten(0, 1) if e.ndim == 4 else e
    e = (cast_to(module.modulation, dtype=x.dtype, device=x.device) + e).unsqueeze(2)
    shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = e.unbind(1)  # (b, 1, c)

    x = x.contiguous()
    y = fused.layer_norm_modulate(x, scale, shift, module.norm1.eps)
    y = module.self_attn(y, freqs, transformer_options=transformer_options)
    x = fused.add_gated(x, y, gate)
    del y
    x = x + module.cross_attn(
        module.norm3(x),
        context,
        context_img_len=context_img_len,
        transformer_options=transformer_options,
    )
    for patch in transformer_options.get("patches", NONE).get("attn2_patch", ()):
        x = patch({"x": x, "transformer_options": transformer_options}).contiguous()
    y = module.ffn(fused.layer_norm_modulate(x, mlp_scale, mlp_shift, module.norm2.eps))
    return fused.add_gated(x, y, mlp_gate)


def self_attention(module, x, freqs, transformer_options=NONE):
    """x: (b, s, c). freqs: (1, s, 1, d / 2, 2, 2)."""
    weights, freqs = weights_of(x, module.norm_q, module.norm_k), freqs.squeeze(2)
    if weights is None or not takes(x, freqs, x.shape[1], module.head_dim, *weights):
        return None
    heads = (module.num_heads, module.head_dim)
    q, k = (
        fused.rms_norm_rope(linear(x).unflatten(2, heads), weight, freqs, eps_of(norm, x))
        for linear, weight, norm in (
            (module.q, weights[0], module.norm_q),
            (module.k, weights[1], module.norm_k),
        )
    )
    out = comfy_wan.optimized_attention(
        q.flatten(2),
        k.flatten(2),
        module.v(x),
        heads=module.num_heads,
        transformer_options=transformer_options,
    )
    for patch in transformer_options.get("patches", NONE).get("attn1_patch", ()):
        out = patch({"x": out, "q": q, "k": k, "transformer_options": transformer_options})
    return module.o(out)
