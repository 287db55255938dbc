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


VIDEO, TEXT = 0, 1  # streams, in the order in which they are in attention


def _split(call: dict, share) -> dict:
    """x, y: tokens. crop_y: how many of y are the prompt: the rest is never attended to.
    rope: (video, heads, d)."""
    x, y = call["x"], call["y"][:, : call["crop_y"]]
    if not share.lengths:
        share.begin(x.shape[1], y.shape[1])
    tables = {name: share.table(call[name], 0, VIDEO) for name in ("rope_cos", "rope_sin")}
    return {"x": share.tokens(x, 1, VIDEO), "y": share.tokens(y, 1, TEXT), **tables}


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
            _token_layout, lambda model: MOCHI, splits=True
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
    block_lists=(BlockList("blocks", "AsymmetricJointBlock", split=_split),),
    projections=dict.fromkeys("qkv", ("attn.qkv_x",)) | {"o": ("attn.proj_x",)},
    behind_blocks="final_layer",
)
