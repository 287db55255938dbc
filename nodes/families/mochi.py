"""Mochi 1. Video and text are one sequence: video text.

The model doesn't say which block it is in. Preset: the paper (arXiv 2506.19852, tables 1 to 3 and
appendix).
"""

from .base import (
    BlockList,
    Family,
    ModelClass,
    Preset,
    TokenLayout,
    VideoModel,
    model_size,
    patches,
)

MOCHI = Preset("Mochi", 28, 1.0, dense_blocks=0)


def _token_layout(model, x, c_crossattn, conditions: dict) -> TokenLayout:
    grid = patches(x, (1, model.patch_size, model.patch_size))
    return TokenLayout(grid, after=None, announced=False)


def _weights(width: int, feed_forward: int) -> int:
    """The feed-forward is gated: two layers in, one out."""
    return 4 * width**2 + 3 * width * feed_forward


def _size(model):
    weights = _weights(model.hidden_size_x, model.blocks[0].mlp_x.hidden_dim)
    return model_size(len(model.blocks), model.num_heads, model.head_dim, weights)


FAMILY = Family(
    name="Mochi",
    classes={
        "comfy.ldm.genmo.joint_model.asymm_models_joint.AsymmDiTJoint": ModelClass(
            _token_layout, lambda model: MOCHI
        )
    },
    presets=(MOCHI,),
    head_dim=lambda model: model.head_dim,
    size=_size,
    catalog={
        "Mochi": VideoModel(
            MOCHI, model_size(48, 24, 128, _weights(3072, 8192)), frames=6, after=256
        )
    },
    block_lists=(BlockList("blocks", "AsymmetricJointBlock"),),
    projections=dict.fromkeys("qkv", ("attn.qkv_x",)) | {"o": ("attn.proj_x",)},
)
