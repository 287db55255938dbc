"""Cosmos Predict2 Video2World (2B and 14B), from text or from a first or last picture.

Self-attention is over the video alone; text is in the blocks' cross-attention. Given frames replace
the noisy ones and add no tokens. ComfyUI says which block runs in newer versions only. The image
models are the same class, and their latents have one frame. Anima, an image model, is made from it
and has a class of its own.

The preset is a starting value of ours: nobody has published any, and none was tried on real
weights. Sink and dense blocks are Wan's. With decay 0.4 the mask keeps what it keeps with the
authors' 0.2 for Wan 2.1 at 81 frames: 34 % at 832x480 (Wan: 34 %), 27 % at 1280x704 (Wan: 26 % at
1280x720). The trained length is 93 frames. Sizes: what ComfyUI makes of the published weights.
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

COSMOS_PREDICT2 = Preset("Cosmos Predict2", 24, 0.4)


def _token_layout(model, x, c_crossattn, conditions: dict) -> TokenLayout:
    grid = patches(x, (model.patch_temporal, model.patch_spatial, model.patch_spatial))
    return TokenLayout(grid, others=lengths(c_crossattn), announced=False)


def _head_dim(model) -> int:
    return model.model_channels // model.num_heads


def _weights(width: int, feed_forward: int) -> int:
    """Self-attention's q, k, v and o, cross-attention's q and o, a feed-forward of two layers."""
    return 6 * width**2 + 2 * width * feed_forward


def _size(model):
    weights = _weights(model.model_channels, model.blocks[0].mlp.layer1.out_features)
    return model_size(len(model.blocks), model.num_heads, _head_dim(model), weights)


def _by_name(blocks: int, width: int) -> VideoModel:
    weights = _weights(width, 4 * width)
    return VideoModel(COSMOS_PREDICT2, model_size(blocks, width // 128, 128, weights))


FAMILY = Family(
    name="Cosmos Predict2",
    classes={
        "comfy.ldm.cosmos.predict2.MiniTrainDIT": ModelClass(
            _token_layout, lambda model: COSMOS_PREDICT2
        )
    },
    presets=(COSMOS_PREDICT2,),
    head_dim=_head_dim,
    size=_size,
    catalog={
        "Cosmos Predict2 2B": _by_name(28, 2048),
        "Cosmos Predict2 14B": _by_name(36, 5120),
    },
    block_lists=(BlockList("blocks", "Block"),),
    projections={
        "q": ("self_attn.q_proj",),
        "k": ("self_attn.k_proj",),
        "v": ("self_attn.v_proj",),
        "o": ("self_attn.output_proj",),
    },
)
