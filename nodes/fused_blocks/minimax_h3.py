"""The fused forms of MiniMax H3's block, its attention and its feed-forward."""

from functools import partial

import torch

from ...radial_core import fused_packed
from .fits import (
    Form,
    function_of,
    require,
    require_supported,
    rms_norms,
    sample_tokens,
)

NONE = {}
TOKENS = 7  # of the small calls in a proof
SMALL_SEGMENTS = [(0, 2, 1), (2, 3, 0), (3, TOKENS, 2)]
NO_POSITIONS = "its tokens have no positions"
FOLDS = "TensorWiseINT8Layout"  # quantized weights whose kernel computes the SwiGLU itself


def _plan_block(module, x, t_emb, mod_segments, rope_freqs, transformer_options=NONE):
    """x: (s, c), changed in place. t_emb: (t, e), for each timestep. mod_segments: (start, stop,
    row of modulation) of all tokens; each timestep has a row for each kind of token."""
    require(rope_freqs is not None, NO_POSITIONS)
    require(x.ndim == 2 and x.is_contiguous(), f"tokens {tuple(x.shape)}, strides {x.stride()}")
    segments = tuple(map(tuple, mod_segments))
    wrong = _wrong_in(segments, x.shape[0], t_emb.shape[0] * module.adaln_proj.modalities)
    require(wrong is None, wrong)
    norms = rms_norms(x, module.norm1, module.norm2)
    weights = [weight for weight, _ in norms]
    require_supported(x, *weights, why_not=fused_packed.why_not)
    attend = partial(module.attn, rope_freqs=rope_freqs, transformer_options=transformer_options)
    return partial(_block, module, x, t_emb, segments, norms, attend)


def _wrong_in(segments: tuple, tokens: int, rows: int) -> str | None:
    """None if these are all tokens in order, with one row of modulation each; else what is not."""
    end = 0
    for start, stop, row in segments:
        if not isinstance(row, int):
            return "some of its tokens have their own timestep"
        if not (start == end <= stop and 0 <= row < rows):
            return f"a segment {start, stop, row}"
        end = stop
    return None if end == tokens else f"segments of {end} tokens, expected {tokens}"


def _block(module, x, t_emb, segments, norms, attend):
    shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = module.adaln_proj(t_emb)
    (weight, eps), (mlp_weight, mlp_eps) = norms
    y = attend(fused_packed.rms_norm_modulate(x, weight, scale, shift, segments, eps))
    fused_packed.add_gated_(x, y, gate, segments)
    del y
    modulated = mlp_weight, mlp_scale, mlp_shift, segments, mlp_eps
    y = module.mlp(fused_packed.rms_norm_modulate(x, *modulated))
    return fused_packed.add_gated_(x, y, mlp_gate, segments)


def _small_block(draw, x, t_emb, mod_segments, rope_freqs):
    return {
        "x": draw(TOKENS, x.shape[1], size=0.1),
        "t_emb": draw(*t_emb.shape).to(t_emb.dtype),
        "mod_segments": SMALL_SEGMENTS,
        "rope_freqs": sample_tokens(rope_freqs, TOKENS),
    }


def _plan_attention(module, x, rope_freqs=None, transformer_options=NONE):
    """x: (s, c). rope_freqs: (1, s, 1, p, 2, 2), for the first 2 * p numbers of each head."""
    require(rope_freqs is not None, NO_POSITIONS)
    norms = rms_norms(x, module.q_norm, module.k_norm)
    require_supported(x, *(weight for weight, _ in norms), why_not=fused_packed.why_not)
    pairs = rope_freqs.shape[-3]
    fits = rope_freqs.shape == (1, x.shape[0], 1, pairs, 2, 2) and 2 * pairs <= module.head_dim
    fits = fits and rope_freqs.is_contiguous() and rope_freqs.device == x.device
    require(fits, f"rotations {tuple(rope_freqs.shape)} for heads of {module.head_dim}")
    attend = function_of(module, "optimized_attention")
    return partial(_attention, module, attend, x, rope_freqs[0, :, 0], norms, transformer_options)


def _attention(module, attend, x, freqs, norms, options):
    (q_weight, eps), (k_weight, _) = norms  # ComfyUI takes the epsilon of q for both
    qkv = module.qkv_proj(x).unflatten(1, (3, module.heads, module.head_dim))
    weights = torch.stack((q_weight, k_weight))
    fused_packed.rms_norm_rope_halves_(qkv[:, :2], weights, freqs, eps)
    q, k, v = qkv.permute(1, 2, 0, 3).unsqueeze(1)  # (1, h, s, d)
    y = attend(q, k, v, module.heads, mask=None, skip_reshape=True, transformer_options=options)
    del qkv, q, k, v
    return module.out_proj(y.squeeze(0))


def _small_attention(draw, x, rope_freqs):
    return {"x": draw(TOKENS, x.shape[1]), "rope_freqs": sample_tokens(rope_freqs, TOKENS)}


def _plan_mlp(module, x):
    """x: (s, c)."""
    require_supported(x, why_not=fused_packed.why_not)
    if getattr(module.fc2.weight, "_layout_cls", None) == FOLDS:
        return partial(type(module).forward, module, x)
    return partial(_mlp, module, x)


def _mlp(module, x):
    return module.fc2(fused_packed.swiglu(module.fc1(x)))


def _small_mlp(draw, x):
    return {"x": draw(TOKENS, x.shape[1])}


H3 = "comfy.ldm.minimax.model"
FORMS = {  # by module and class
    (H3, "DiTBlock"): Form(_plan_block, _small_block, residuals=("x",)),
    (H3, "Attention"): Form(_plan_attention, _small_attention, part="attn"),
    (H3, "MLP"): Form(_plan_mlp, _small_mlp, part="mlp"),
}
