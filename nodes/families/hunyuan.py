"""HunyuanVideo 1.0 and 1.5, all of whose variants are one class.

Text and video are one sequence: text [reference] video. Presets: the paper (arXiv 2506.19852) and
the scripts of its released code for HunyuanVideo 1.0; those of 1.5 are taken over from it.
"""

import torch

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

HUNYUAN_VIDEO = Preset("HunyuanVideo", 33, 0.95, dense_blocks=0, sink_frames=0)
HUNYUAN_VIDEO_15 = Preset("HunyuanVideo 1.5", 31, 0.95, dense_blocks=0, sink_frames=0)


def _token_layout(model, x, c_crossattn, conditions: dict) -> TokenLayout:
    grid = patches(x, model.patch_size)
    return TokenLayout(grid, before=None, double_blocks=len(model.double_blocks))


TEXT, VIDEO = 0, 1  # streams, in the order in which they are in attention


def _split_double(call: dict, share) -> dict:
    """img, txt: tokens. pe: (b, 1, text and video, ...). modulation_dims: segments of a stream."""
    img, txt = call["img"], call["txt"]
    if not share.lengths:
        share.begin(txt.shape[1], img.shape[1])
    return {
        "img": share.tokens(img, 1, VIDEO),
        "txt": share.tokens(txt, 1, TEXT),
        "pe": share.table(call["pe"], 2),
        **_segments(call, share, modulation_dims_img=VIDEO, modulation_dims_txt=TEXT),
    }


def _split_single(call: dict, share) -> dict:
    """x: the shares of both streams, as double blocks left them. modulation_dims: ComfyUI gives the
    video's segments, and applies them from the first token of the text on."""
    pe = share.table(call["pe"], 2)
    return {"pe": pe, **_segments(call, share, modulation_dims=None)}


def _segments(call: dict, share, **streams) -> dict:
    """streams: argument -> the stream that its segments are of; None for the sequence of both."""
    given = {name: stream for name, stream in streams.items() if call.get(name) is not None}
    return {name: share.segments(call[name], stream) for name, stream in given.items()}


def _whole_output(output, share, gather):
    """The last block is a double one in 1.5. The text stays a share: its length is what ComfyUI
    cuts off in front of the video."""
    if isinstance(output, tuple):
        img, txt = output
        return gather(img, 1, VIDEO), txt
    text = share.of_stream(TEXT)
    txt, img = output.tensor_split((text.stop - text.start,), dim=1)
    return torch.cat((txt, gather(img, 1, VIDEO)), 1)


def _preset(model) -> Preset:
    return HUNYUAN_VIDEO if model.vision_in is None else HUNYUAN_VIDEO_15


def _head_dim(model) -> int:
    return model.hidden_size // model.num_heads


def _weights(width: int, feed_forward: int) -> int:
    """Double and single blocks pass a token through as many weights, each in its own order."""
    return 4 * width**2 + 2 * width * feed_forward


def _size(model):
    width = model.hidden_size
    blocks = len(model.double_blocks) + len(model.single_blocks)
    weights = _weights(width, int(width * model.params.mlp_ratio))
    return model_size(blocks, model.num_heads, _head_dim(model), weights)


def _by_name(preset: Preset, blocks: int, width: int, **latent) -> VideoModel:
    return VideoModel(
        preset, model_size(blocks, width // 128, 128, _weights(width, 4 * width)), **latent
    )


FAMILY = Family(
    name="HunyuanVideo",
    classes={
        "comfy.ldm.hunyuan_video.model.HunyuanVideo": ModelClass(
            _token_layout, _preset, splits=True
        )
    },
    presets=(HUNYUAN_VIDEO, HUNYUAN_VIDEO_15),
    head_dim=_head_dim,
    size=_size,
    catalog={  # a long prompt: 256 tokens, in 1.5 also 64 of words in quotes
        "HunyuanVideo": _by_name(HUNYUAN_VIDEO, 60, 3072, before=256),
        "HunyuanVideo 1.5": _by_name(HUNYUAN_VIDEO_15, 54, 2048, stride=16, patch=1, before=320),
    },
    block_lists=(
        BlockList(
            "double_blocks",
            "DoubleStreamBlock",
            changes_in_place=("img", "txt"),
            split=_split_double,
        ),
        BlockList(
            "single_blocks", "SingleStreamBlock", changes_in_place=("x",), split=_split_single
        ),
    ),
    # One layer makes q, k and v. In single blocks the MLP is in the same layers.
    projections=dict.fromkeys("qkv", ("img_attn.qkv", "linear1"))
    | {"o": ("img_attn.proj", "linear2")},
    fused_blocks="hunyuan",
    whole_output=_whole_output,
)
