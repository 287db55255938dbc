"""The fused forms of Wan's block and its self-attention."""

from functools import partial

from ...radial_core import fused
from .fits import (
    Form,
    function_of,
    layer_norm_eps,
    require,
    require_rotations,
    require_supported,
    rms_norms,
    sample_tokens,
)

NONE = {}
TOKENS, TEXT, IMAGE = 7, 5, 3  # of the small calls in a proof


def _plan_block(module, x, e, freqs, context, context_img_len=257, transformer_options=NONE):
    """x: (b, s, c). e: modulation by the timestep, (b, 6, c) or (b, 1, 6, c) for all tokens."""
    require(e.ndim == 3 or e.shape[1] == 1, "its tokens have their own timesteps")
    require_supported(x, e)
    eps = layer_norm_eps(module.norm1), layer_norm_eps(module.norm2)
    time = module.modulation.to(x.device, x.dtype) + e.reshape(-1, 6, x.shape[2])
    text = partial(
        module.cross_attn,
        context=context,
        context_img_len=context_img_len,
        transformer_options=transformer_options,
    )
    return partial(_block, module, x, time, freqs, text, eps, transformer_options)


def _block(module, x, time, freqs, attend_to_text, eps, options):
    shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = time.unsqueeze(2).unbind(1)  # (b, 1, c)
    x = x.contiguous()  # the same name, so that the copy in the first block is freed early
    normed = fused.layer_norm_modulate(x, scale, shift, eps[0])
    y = module.self_attn(normed, freqs, transformer_options=options)
    x = fused.add_gated(x, y, gate)
    del normed, y
    x = x + attend_to_text(module.norm3(x))
    x = _patched("attn2_patch", options, x).contiguous()
    y = module.ffn(fused.layer_norm_modulate(x, mlp_scale, mlp_shift, eps[1]))
    return fused.add_gated(x, y, mlp_gate)


def _small_block(draw, x, e, freqs, context, context_img_len=257):
    of_image = isinstance(context_img_len, int)
    return {
        "x": draw(2, TOKENS, x.shape[2], size=0.1),
        "e": draw(2, *e.shape[1:]),
        "freqs": sample_tokens(freqs, TOKENS),
        "context": draw(2, TEXT + (IMAGE if of_image else 0), context.shape[2]),
        "context_img_len": IMAGE if of_image else context_img_len,
    }


def _plan_attention(module, x, freqs, transformer_options=NONE):
    """x: (b, s, c). freqs: (1, s, 1, d / 2, 2, 2)."""
    freqs = freqs.squeeze(2)
    norms = rms_norms(x, module.norm_q, module.norm_k)
    require_supported(x, *(weight for weight, _ in norms))
    require_rotations(freqs, x, x.shape[1], module.head_dim)
    attend = function_of(module, "optimized_attention")
    return partial(_attention, module, attend, x, freqs, norms, transformer_options)


def _attention(module, attend, x, freqs, norms, options):
    heads = (module.num_heads, module.head_dim)
    (q_weight, q_eps), (k_weight, k_eps) = norms
    q = fused.rms_norm_rope(module.q(x).unflatten(2, heads), q_weight, freqs, q_eps)
    k = fused.rms_norm_rope(module.k(x).unflatten(2, heads), k_weight, freqs, k_eps)
    y = attend(q.flatten(2), k.flatten(2), module.v(x), heads=heads[0], transformer_options=options)
    return module.o(_patched("attn1_patch", options, y, q=q, k=k))


def _small_attention(draw, x, freqs):
    return {"x": draw(2, TOKENS, x.shape[2]), "freqs": sample_tokens(freqs, TOKENS)}


def _patched(name: str, options: dict, x, **seen):
    """x (b, s, c) after the patches that other nodes registered under this name in ComfyUI."""
    for patch in options.get("patches", NONE).get(name, ()):
        x = patch({"x": x, **seen, "transformer_options": options})
    return x


PATCHES = ("attn1_patch", "attn2_patch")
BLOCK = Form(_plan_block, _small_block, residuals=("x",), patches=PATCHES)
SELF_ATTENTION = Form(_plan_attention, _small_attention, patches=PATCHES[:1], part="self_attn")
FORMS = {  # by module and class
    ("comfy.ldm.wan.model", "WanAttentionBlock"): BLOCK,
    ("comfy.ldm.wan.model", "WanSelfAttention"): SELF_ATTENTION,
}
