"""Kandinsky 5 Lite (2B) and Pro (19B), text to video and image to video.

Self-attention is over the video alone. Text has blocks of its own, before the visual ones, and is
in their cross-attention. The first frames of an image to video replace the noisy ones: they add no
tokens. The image models are the same class, but their latents are not videos.

The presets are starting values of ours: nobody has published any, and none was tried on real
weights. Sink and dense blocks are Wan's. With decay 0.8 the map keeps what it keeps with the
authors' 0.2 for Wan 2.1 at 81 frames: 34 % at 768x512 (Wan: 34 % at 832x480), 27 % at 1280x768
(Wan: 26 % at 1280x720). The trained length is 5 s at 24 frames a second, 121 frames. The 10 s
checkpoints can't be told from those of 5 s, so at 10 s they run with the settings for long videos.
Sizes: the configurations of the released code (kandinskylab/kandinsky-5).
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
    patches,
)

KANDINSKY_5 = Preset("Kandinsky 5", 31, 0.8)


def _token_layout(model, x, c_crossattn, conditions: dict) -> TokenLayout:
    return TokenLayout(patches(x, model.patch_size), others=lengths(c_crossattn))


def _head_dim(model) -> int:
    return model.rope_embedder_3d.dim


def _weights(width: int, feed_forward: int) -> int:
    """Self-attention's q, k, v and o, cross-attention's q and o, a feed-forward of two layers."""
    return 6 * width**2 + 2 * width * feed_forward


def _size(model):
    blocks, width, head_dim = model.visual_transformer_blocks, model.model_dim, _head_dim(model)
    weights = _weights(width, blocks[0].feed_forward.in_layer.out_features)
    return model_size(len(blocks), width // head_dim, head_dim, weights)


def _by_name(blocks: int, width: int, head_dim: int) -> VideoModel:
    weights = _weights(width, 4 * width)
    return VideoModel(KANDINSKY_5, model_size(blocks, width // head_dim, head_dim, weights))


FAMILY = Family(
    name="Kandinsky 5",
    classes={
        "comfy.ldm.kandinsky5.model.Kandinsky5": ModelClass(
            _token_layout, lambda model: KANDINSKY_5
        )
    },
    presets=(KANDINSKY_5,),
    head_dim=_head_dim,
    size=_size,
    catalog={
        "Kandinsky 5 Lite": _by_name(32, 1792, 64),
        "Kandinsky 5 Pro": _by_name(60, 4096, 128),
    },
    block_lists=(BlockList("visual_transformer_blocks", "TransformerDecoderBlock"),),
    projections={
        "q": ("self_attention.to_query",),
        "k": ("self_attention.to_key",),
        "v": ("self_attention.to_value",),
        "o": ("self_attention.out_layer",),
    },
)
