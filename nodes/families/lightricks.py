"""LTX-Video (2B and 13B), and LTX-2 (19B; 2.3: 22B), which makes sound as well.

A token covers 32 x 32 pixels and 8 frames. The video attends to itself; text and sound are in
cross-attention. Sound attends to itself too, which stays dense. Guides are appended to the latent
as further frames, but have a time of their own and may lack tokens: they attend to everything, and
everything attends to them. A guide with a mask or a strength other than 1 makes ComfyUI compute the
call in parts, which stay dense. The model doesn't say which block it is in.

The presets are starting values of ours: nobody has published any, and none was tried on real
weights. Sink and dense blocks are Wan's. LTX-2 makes up to 20 s at 25 frames a second (505 frames),
LTX-Video up to 257 frames. At 1920x1088 the mask keeps about what the authors keep in Wan 2.1 in as
many tokens: 38 % in 121 frames (Wan at 832x480: 34 %), 25 % in 257 frames (at 1280x720: 26 %), and
16 % in 505 frames (in 126,360 tokens, with decay 1: 19 %). At 1280x704 a frame has 880 tokens, less
than 8 blocks of 128. There decay says little, as bands are a block wide at least: the mask keeps
47 % in 121 frames, and 45 % with 0.2.
Sizes: the defaults of ComfyUI's classes, which are LTX-Video 2B and LTX-2; the 13B is as wide as
LTX-2. Gates of 2.3 are left out.
"""

from .base import (
    BlockList,
    Family,
    ModelClass,
    Preset,
    TokenLayout,
    VideoModel,
    lengths,
    model_size,
)

LTX_VIDEO = Preset("LTX-Video", 33, 0.6)
LTX_2 = Preset("LTX-2", 64, 0.6)
LATENT = {"stride": 32, "frames": 8, "patch": 1}


def _token_layout(model, x, c_crossattn, conditions: dict) -> TokenLayout:
    frames, height, width = x.shape[-3:]
    keyframes = conditions.get("keyframe_idxs")
    guides = 0 if keyframes is None else -(-keyframes.shape[2] // (height * width))
    return TokenLayout(
        (frames - guides, height, width),
        after=_tokens_left(guides * height * width, conditions.get("denoise_mask")),
        others=lengths(c_crossattn) | _sound(conditions),
        announced=False,
    )


def _tokens_left(last: int, mask) -> int:
    """How many of the last tokens of the latent the model keeps: not those with a mask below 0.

    mask: (b, c, f, h, w). A guide of less resolution has its tokens in the places of some.
    """
    if last == 0 or mask is None:
        return last
    return last - int((mask[0] < 0).any(dim=0).flatten()[-last:].sum())


def _sound(conditions: dict) -> frozenset[int]:
    """How many tokens the sound has, with the voice that it is to sound like in front."""
    latents, reference = conditions.get("latent_shapes") or (), conditions.get("ref_audio")
    if len(latents) < 2:
        return frozenset()
    return frozenset({latents[1][2] + (reference["tokens"].shape[1] if reference else 0)})


def _weights(width: int, sound: int = 0) -> int:
    """Self-attention's q, k, v and o, text's q and o, a feed-forward of two layers 4 times as wide.

    sound: the width of its tokens. Between it and the video there are a q, k, v and o more.
    """
    return 14 * width**2 + 4 * width * sound


def _size(model):
    weights = _weights(model.inner_dim, getattr(model, "audio_inner_dim", 0))
    heads, head_dim = model.num_attention_heads, model.attention_head_dim
    return model_size(len(model.transformer_blocks), heads, head_dim, weights)


FAMILY = Family(
    name="LTX",
    classes={
        "comfy.ldm.lightricks.model.LTXVModel": ModelClass(_token_layout, lambda model: LTX_VIDEO),
        "comfy.ldm.lightricks.av_model.LTXAVModel": ModelClass(_token_layout, lambda model: LTX_2),
    },
    presets=(LTX_VIDEO, LTX_2),
    head_dim=lambda model: model.attention_head_dim,
    size=_size,
    catalog={
        "LTX-Video 2B": VideoModel(LTX_VIDEO, model_size(28, 32, 64, _weights(2048)), **LATENT),
        "LTX-Video 13B": VideoModel(LTX_VIDEO, model_size(48, 32, 128, _weights(4096)), **LATENT),
        "LTX-2": VideoModel(LTX_2, model_size(48, 32, 128, _weights(4096, 2048)), **LATENT),
    },
    block_lists=(
        BlockList("transformer_blocks", "BasicTransformerBlock"),
        BlockList("transformer_blocks", "BasicAVTransformerBlock"),
    ),
    projections={
        "q": ("attn1.to_q",),
        "k": ("attn1.to_k",),
        "v": ("attn1.to_v",),
        "o": ("attn1.to_out.0",),
    },
)
