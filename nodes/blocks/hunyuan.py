"""HunyuanVideo's two kinds of block. They return None for what is not theirs."""

import comfy.ldm.flux.layers as comfy_flux
import torch

from ...radial_core import fused
from .fits import eps_of, takes, weights_of

NONE = {}
PATCHES = ("attn1_patch", "attn1_output_patch")  # they want to see what is fused


def double_block(
    module,
    img,
    txt,
    vec,
    pe,
    attn_mask=None,
    modulation_dims_img=None,
    modulation_dims_txt=None,
    transformer_options=NONE,
):
    """A stream for the video and one for the text: img, txt (b, s, c). vec: what time says, (b, c).

    pe: rotations of text and video, (b, 1, s, d / 2, 2, 2). modulation_dims: not None where some
    frames have a time of their own.
    """
    txt_attn, img_attn = module.txt_attn, module.img_attn
    norms = [n for a in (txt_attn, img_attn) for n in (a.norm.query_norm, a.norm.key_norm)]
    weights, freqs = weights_of(img, *norms), pe.squeeze(1)
    head_dim, words = img.shape[2] // module.num_heads, txt.shape[1]
    tokens = words + img.shape[1]
    if (
        modulation_dims_img is not None
        or modulation_dims_txt is not None
        or _is_watched(transformer_options)
        or weights is None
        or not takes(img, freqs, tokens, head_dim, txt, vec, *weights)
    ):
        return None

    (txt_mod, txt_mlp_mod), (img_mod, img_mlp_mod) = module.txt_mod(vec), module.img_mod(vec)
    txt, img = txt.contiguous(), img.contiguous()
    q, k = img.new_empty(2, img.shape[0], tokens, module.num_heads, head_dim).unbind(0)
    part, norm = slice(0, words), module.txt_norm1
    v_txt = _into(q[:, part], k[:, part], txt, txt_attn, txt_mod, norm, freqs[:, part], weights[:2])
    part, norm = slice(words, tokens), module.img_norm1
    v_img = _into(q[:, part], k[:, part], img, img_attn, img_mod, norm, freqs[:, part], weights[2:])
    v = torch.cat((v_txt, v_img), dim=1)
    del v_txt, v_img
    y = _attention(q, k, v, attn_mask, transformer_options)
    del q, k, v
    txt_y, y = txt_attn.proj(y[:, :words]), img_attn.proj(y[:, words:])
    img = fused.add_gated(img, y, img_mod.gate, out=img)
    del y
    img = _mlp(img, img_mlp_mod, module.img_norm2, module.img_mlp)
    txt = fused.add_gated(txt, txt_y, txt_mod.gate, out=txt)
    txt = _mlp(txt, txt_mlp_mod, module.txt_norm2, module.txt_mlp)
    return img, _finite(txt)


def _into(q, k, x, attn, mod, norm, freqs, weights):
    """Write queries and keys of a stream into q and k; returns its values."""
    x = attn.qkv(fused.layer_norm_modulate(x, mod.scale, mod.shift, norm.eps))
    *raw, v = x.unflatten(2, (3, *q.shape[2:])).unbind(2)
    norms = attn.norm.query_norm, attn.norm.key_norm
    for out, y, weight, norm in zip((q, k), raw, weights, norms, strict=True):
        fused.rms_norm_rope(y, weight, freqs, eps_of(norm, y), out=out)
    return v


def _mlp(x, mod, norm, mlp):
    y = mlp(fused.layer_norm_modulate(x, mod.scale, mod.shift, norm.eps))
    return fused.add_gated(x, y, mod.gate, out=x)


def single_block(
    module, x, vec, pe, attn_mask=None, modulation_dims=None, transformer_options=NONE
):
    """One stream of text and video: x (b, s, c); the others as in `double_block`."""
    norms = module.norm.query_norm, module.norm.key_norm
    weights, freqs = weights_of(x, *norms), pe.squeeze(1)
    head_dim = x.shape[2] // module.num_heads
    if (
        modulation_dims is not None
        or _is_watched(transformer_options)
        or weights is None
        or not takes(x, freqs, x.shape[1], head_dim, vec, *weights)
    ):
        return None

    mod, _ = module.modulation(vec)
    x, width = x.contiguous(), 3 * module.hidden_size
    y = module.linear1(fused.layer_norm_modulate(x, mod.scale, mod.shift, module.pre_norm.eps))
    q, k, v = y[..., :width].unflatten(2, (3, module.num_heads, head_dim)).unbind(2)
    q, k = (
        fused.rms_norm_rope(each, weight, freqs, eps_of(norm, x))
        for each, weight, norm in zip((q, k), weights, norms, strict=True)
    )
    attended = _attention(q, k, v, attn_mask, transformer_options)
    del q, k, v
    # What attention made goes where v stood, beside what the MLP takes: they are one matrix then.
    y = fused.beside_gelu(attended, y[..., width - module.hidden_size :])
    del attended
    y = module.linear2(y.flatten(0, 1)).view_as(x)  # as a matrix, or torch would add the bias apart
    return _finite(fused.add_gated(x, y, mod.gate, out=x))


def _attention(q, k, v, mask, options: dict):
    """q, k, v: (b, s, h, d), normed and rotated. -> (b, s, h * d)."""
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    return comfy_flux.attention(q, k, v, pe=None, mask=mask, transformer_options=options)


def _is_watched(options: dict) -> bool:
    patches = options.get("patches", NONE)
    return any(name in patches for name in PATCHES)


def _finite(x):
    """float16 overflows in these blocks; ComfyUI keeps it at its largest."""
    if x.dtype != torch.float16:
        return x
    return torch.nan_to_num(x, nan=0.0, posinf=65504, neginf=-65504)
