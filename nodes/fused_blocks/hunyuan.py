"""The fused forms of HunyuanVideo's double and single stream blocks."""

from functools import partial

import torch

from ...radial_core import fused
from .fits import (
    Form,
    function_of,
    is_watched,
    layer_norm_eps,
    require,
    require_rotations,
    require_supported,
    rms_norms,
    sample_tokens,
)

NONE = {}
TOKENS, TEXT = 7, 5  # of the small calls in a proof
OWN_TIMES = "some of its tokens have their own timestep"


def _plan_double(
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
    """One stream for the video and one for the text: img, txt (b, s, c).

    vec: the timestep's embedding, (b, c). pe: rotations of text and video, (b, 1, s, d / 2, 2, 2).
    modulation_dims: not None where some frames have their own timestep.
    """
    require(modulation_dims_img is None and modulation_dims_txt is None, OWN_TIMES)
    require(torch.is_tensor(vec), "its modulation is computed outside the block")
    freqs, head_dim = pe.squeeze(1), img.shape[2] // module.num_heads
    require_rotations(freqs, img, txt.shape[1] + img.shape[1], head_dim)
    require_supported(img, txt, vec)
    norms = module.txt_norm1, module.txt_norm2
    text = _Stream(txt, module.txt_mod, module.txt_attn, *norms, module.txt_mlp)
    norms = module.img_norm1, module.img_norm2
    video = _Stream(img, module.img_mod, module.img_attn, *norms, module.img_mlp)
    attend = partial(
        _attend, function_of(module, "attention"), mask=attn_mask, options=transformer_options
    )
    return partial(_double, text, video, module.num_heads, vec, freqs, attend)


class _Stream:
    """One of the two streams: its tokens, and the layers for them."""

    def __init__(self, x, modulation, attn, norm_before, norm_after, mlp):
        self.x, self.modulation, self.attn, self.mlp = x.contiguous(), modulation, attn, mlp
        self.eps, self.mlp_eps = layer_norm_eps(norm_before), layer_norm_eps(norm_after)
        self.norms = rms_norms(x, attn.norm.query_norm, attn.norm.key_norm)
        require_supported(x, *(weight for weight, _ in self.norms))

    def modulate(self, vec) -> None:
        self.mod, self.mlp_mod = self.modulation(vec)

    def qkv_into(self, q, k, freqs):
        """Writes queries and keys (b, s, h, d) into q and k; returns the values."""
        y = fused.layer_norm_modulate(self.x, self.mod.scale, self.mod.shift, self.eps)
        *raw, v = self.attn.qkv(y).unflatten(2, (3, *q.shape[2:])).unbind(2)
        for out, each, (weight, eps) in zip((q, k), raw, self.norms, strict=True):
            fused.rms_norm_rope(each, weight, freqs, eps, out=out)
        return v

    def add(self, y) -> None:
        """Adds the projected output of attention to the tokens, in place as ComfyUI does."""
        fused.add_gated(self.x, y, self.mod.gate, out=self.x)

    def feed_forward(self):
        """Adds the MLP's output to the tokens, in place, and returns them."""
        x, mod = self.x, self.mlp_mod
        y = self.mlp(fused.layer_norm_modulate(x, mod.scale, mod.shift, self.mlp_eps))
        return fused.add_gated(x, y, mod.gate, out=x)


def _double(txt, img, heads, vec, freqs, attend):
    img.modulate(vec)
    txt.modulate(vec)
    text_tokens, (batch, video_tokens, width) = txt.x.shape[1], img.x.shape
    tokens = text_tokens + video_tokens
    text, video = slice(0, text_tokens), slice(text_tokens, tokens)
    q, k = img.x.new_empty(2, batch, tokens, heads, width // heads).unbind(0)
    v_txt = txt.qkv_into(q[:, text], k[:, text], freqs[:, text])
    v_img = img.qkv_into(q[:, video], k[:, video], freqs[:, video])
    v = torch.cat((v_txt, v_img), dim=1)
    del v_txt, v_img
    y = attend(q, k, v)
    del q, k, v
    img.add(img.attn.proj(y[:, video]))
    txt.add(txt.attn.proj(y[:, text]))
    del y
    return img.feed_forward(), _finite(txt.feed_forward())


def _small_double(draw, img, txt, vec, pe, attn_mask=None, **dims):
    return {
        "img": draw(2, TOKENS, img.shape[2], size=0.1),
        "txt": draw(2, TEXT, txt.shape[2], size=0.1),
        "vec": draw(2, *vec.shape[1:]),
        "pe": sample_tokens(pe, TEXT + TOKENS, dim=2),
        "attn_mask": _small_mask(draw, attn_mask, TEXT + TOKENS),
        **dims,
    }


def _plan_single(
    module, x, vec, pe, attn_mask=None, modulation_dims=None, transformer_options=NONE
):
    """One stream of text and video: x (b, s, c); the other arguments as in `_plan_double`."""
    require(modulation_dims is None, OWN_TIMES)
    require(torch.is_tensor(vec), "its modulation is computed outside the block")
    freqs = pe.squeeze(1)
    norms = rms_norms(x, module.norm.query_norm, module.norm.key_norm)
    require_supported(x, vec, *(weight for weight, _ in norms))
    require_rotations(freqs, x, x.shape[1], module.hidden_size // module.num_heads)
    eps = layer_norm_eps(module.pre_norm)
    attend = partial(
        _attend, function_of(module, "attention"), mask=attn_mask, options=transformer_options
    )
    return partial(_single, module, x.contiguous(), vec, freqs, eps, norms, attend)


def _single(module, x, vec, freqs, eps, norms, attend):
    mod, _ = module.modulation(vec)
    width = 3 * module.hidden_size
    y = module.linear1(fused.layer_norm_modulate(x, mod.scale, mod.shift, eps))
    q, k, v = y[..., :width].unflatten(2, (3, module.num_heads, -1)).unbind(2)
    (q_weight, q_eps), (k_weight, k_eps) = norms
    q = fused.rms_norm_rope(q, q_weight, freqs, q_eps)
    k = fused.rms_norm_rope(k, k_weight, freqs, k_eps)
    attended = attend(q, k, v)
    del q, k, v
    # Attention's output overwrites v, next to the MLP's input, so that both are one matrix.
    y = fused.beside_gelu(attended, y[..., width - module.hidden_size :])
    del attended
    if not is_watched(module.linear2):
        y = y.flatten(0, 1)  # only for a matrix does torch fuse the bias into the product
    y = module.linear2(y).view_as(x)
    return _finite(fused.add_gated(x, y, mod.gate, out=x))


def _small_single(draw, x, vec, pe, attn_mask=None, **dims):
    return {
        "x": draw(2, TOKENS, x.shape[2], size=0.1),
        "vec": draw(2, *vec.shape[1:]),
        "pe": sample_tokens(pe, TOKENS, dim=2),
        "attn_mask": _small_mask(draw, attn_mask, TOKENS),
        **dims,
    }


def _attend(attention, q, k, v, mask, options: dict):
    """q, k, v: (b, s, h, d), normed and rotated. -> (b, s, h * d)."""
    heads_first = (x.transpose(1, 2) for x in (q, k, v))
    return attention(*heads_first, pe=None, mask=mask, transformer_options=options)


def _small_mask(draw, mask, tokens: int):
    if mask is None:
        return None
    small = draw(*[1] * (mask.ndim - 1), tokens)
    return small.to(mask.dtype) if mask.is_floating_point() else small > -1


def _finite(x):
    """Clamps float16, which overflows in these blocks, to its largest value as ComfyUI does."""
    if x.dtype != torch.float16:
        return x
    limit = torch.finfo(x.dtype).max
    return x.nan_to_num(0.0, limit, -limit)


DOUBLE_BLOCK = Form(_plan_double, _small_double, residuals=("img", "txt"))
SINGLE_BLOCK = Form(_plan_single, _small_single, residuals=("x",))
FORMS = {  # by module and class
    ("comfy.ldm.flux.layers", "DoubleStreamBlock"): DOUBLE_BLOCK,
    ("comfy.ldm.flux.layers", "SingleStreamBlock"): SINGLE_BLOCK,
}
