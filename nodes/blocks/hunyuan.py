"""HunyuanVideo's two kinds of block.

Each function looks whether a call is its own and returns what computes it; else it raises, and
nothing has happened yet.
"""

from functools import partial

import comfy.ldm.flux.layers as comfy_flux
import torch

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
    require(modulation_dims_img is None and modulation_dims_txt is None)
    _require_unwatched(transformer_options)
    freqs, head_dim = pe.squeeze(1), img.shape[2] // module.num_heads
    require_rotations(freqs, img, txt.shape[1] + img.shape[1], head_dim)
    require_taken(img, txt, vec)
    norms = module.txt_norm1, module.txt_norm2
    text = _Stream(txt, module.txt_attn, module.txt_mod(vec), *norms, module.txt_mlp)
    norms = module.img_norm1, module.img_norm2
    video = _Stream(img, module.img_attn, module.img_mod(vec), *norms, module.img_mlp)
    return partial(
        _double_block, text, video, module.num_heads, freqs, attn_mask, transformer_options
    )


class _Stream:
    """One of the two: its tokens, and what it does to them."""

    def __init__(self, x, attn, mods, norm_before, norm_after, mlp):
        self.x, self.attn, self.mlp = x.contiguous(), attn, mlp
        self.mod, self.mlp_mod = mods
        self.eps, self.mlp_eps = plain_eps(norm_before), plain_eps(norm_after)
        norms = attn.norm.query_norm, attn.norm.key_norm
        self.weights = weights_of(x, *norms)
        self.norm_eps = [eps_of(norm, x) for norm in norms]
        require_taken(x, *self.weights)

    def qkv_into(self, q, k, freqs):
        """Write queries and keys (b, s, h, d) into q and k; returns the values."""
        y = fused.layer_norm_modulate(self.x, self.mod.scale, self.mod.shift, self.eps)
        *raw, v = self.attn.qkv(y).unflatten(2, (3, *q.shape[2:])).unbind(2)
        for out, each, weight, eps in zip((q, k), raw, self.weights, self.norm_eps, strict=True):
            fused.rms_norm_rope(each, weight, freqs, eps, out=out)
        return v

    def add(self, y) -> None:
        """What attention made, projected; the tokens change in place, as they do in ComfyUI's."""
        fused.add_gated(self.x, y, self.mod.gate, out=self.x)

    def fed_forward(self):
        """The tokens after the MLP, which changes them in place."""
        x, mod = self.x, self.mlp_mod
        y = self.mlp(fused.layer_norm_modulate(x, mod.scale, mod.shift, self.mlp_eps))
        return fused.add_gated(x, y, mod.gate, out=x)


def _double_block(txt, img, heads, freqs, mask, options):
    words, (batch, patches, width) = txt.x.shape[1], img.x.shape
    text, video = slice(0, words), slice(words, words + patches)
    q, k = img.x.new_empty(2, batch, words + patches, heads, width // heads).unbind(0)
    v_txt = txt.qkv_into(q[:, text], k[:, text], freqs[:, text])
    v_img = img.qkv_into(q[:, video], k[:, video], freqs[:, video])
    v = torch.cat((v_txt, v_img), dim=1)
    del v_txt, v_img
    y = _attention(q, k, v, mask, options)
    del q, k, v
    img.add(img.attn.proj(y[:, video]))
    txt.add(txt.attn.proj(y[:, text]))
    del y
    return img.fed_forward(), _finite(txt.fed_forward())


def single_block(
    module, x, vec, pe, attn_mask=None, modulation_dims=None, transformer_options=NONE
):
    """One stream of text and video: x (b, s, c); the others as in `double_block`."""
    require(modulation_dims is None)
    _require_unwatched(transformer_options)
    norms, freqs = (module.norm.query_norm, module.norm.key_norm), pe.squeeze(1)
    weights = weights_of(x, *norms)
    require_taken(x, vec, *weights)
    require_rotations(freqs, x, x.shape[1], module.hidden_size // module.num_heads)
    eps = plain_eps(module.pre_norm), *(eps_of(norm, x) for norm in norms)
    mod, _ = module.modulation(vec)
    return partial(
        _single_block,
        module,
        x.contiguous(),
        mod,
        freqs,
        weights,
        eps,
        attn_mask,
        transformer_options,
    )


def _single_block(module, x, mod, freqs, weights, eps, mask, options):
    width = 3 * module.hidden_size
    y = module.linear1(fused.layer_norm_modulate(x, mod.scale, mod.shift, eps[0]))
    q, k, v = y[..., :width].unflatten(2, (3, module.num_heads, -1)).unbind(2)
    q = fused.rms_norm_rope(q, weights[0], freqs, eps[1])
    k = fused.rms_norm_rope(k, weights[1], freqs, eps[2])
    attended = _attention(q, k, v, mask, options)
    del q, k, v
    # What attention made goes where v stood, beside what the MLP takes: they are one matrix then.
    y = fused.beside_gelu(attended, y[..., width - module.hidden_size :])
    del attended
    y = module.linear2(y.flatten(0, 1)).view_as(x)  # as a matrix, or torch would add the bias apart
    return _finite(fused.add_gated(x, y, mod.gate, out=x))


def _attention(q, k, v, mask, options: dict):
    """q, k, v: (b, s, h, d), normed and rotated. -> (b, s, h * d)."""
    heads_first = (x.transpose(1, 2) for x in (q, k, v))
    return comfy_flux.attention(*heads_first, pe=None, mask=mask, transformer_options=options)


def _require_unwatched(options: dict) -> None:
    require(not any(name in options.get("patches", NONE) for name in PATCHES))


def _finite(x):
    """float16 overflows in these blocks; ComfyUI keeps it at its largest."""
    if x.dtype != torch.float16:
        return x
    limit = torch.finfo(x.dtype).max
    return x.nan_to_num(0.0, limit, -limit)
