"""MiniMax H3 (33B): text, keyframes and references to video with sound.

All is one sequence: text [keyframes or references] sound video. Two latents, video and sound, come
packed as one. Only attention among the video's own tokens is sparse: the rest attends to everything
and is attended to by everything. Text is refined before, by attention blocks of its own, once in a
run and outside of any pass. The model doesn't say which block it is in. Latent frames stand for 1,
4, 4, 4 and 4 video frames, over and over; distances in the mask are in latent frames.

The preset is a starting value of ours: nobody has published any, and it was not tried on real
weights. Sink and dense blocks are Wan's. The trained lengths are 5 to 15 s at 24 frames a second
(124 to 362 frames, as ComfyUI's nodes say), so it holds up to the longest. With decay 1 the map of
the video keeps 28 % in 5 s at 1344x768 and 35 % at 864x480 (Wan 2.1 with the authors' 0.2: 26 % at
1280x720, 34 % at 832x480), 18 % in 10 s and 13 % in 15 s. That is sparser than what the authors
keep in long videos with decay 1 (19 % in 126,360 tokens of Wan, 15 % in 178,080 of Mochi; 15 s have
107,856): H3 has more latent frames, of fewer tokens. 1008 tokens a frame at 1344x768 are less than
8 blocks of 128, so a smaller decay drops little more (26 % with 0.2 in 5 s). Blocks of 64 follow it
more closely: 24 %, 14 % and 11 % with decay 1.
Sizes: the defaults of ComfyUI's class.
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

MINIMAX_H3 = Preset("MiniMax H3", 107, 1.0)
CLIP, CLIP_LATENT = 17, 5  # frames of a clip of the VAE, and its latent frames
LAST, LAST_LATENT = 5, 2  # those of the shorter one at the end
SOUND = 80 / 24 * CLIP / CLIP_LATENT  # tokens a latent frame: 2 x 40 a second, at 24 frames


def _token_layout(model, x, c_crossattn, conditions: dict) -> TokenLayout:
    grid = patches(x, model.patch_size)
    return TokenLayout(grid, before=None, others=lengths(c_crossattn), announced=False)


def _split(call: dict, share) -> dict:
    """x: tokens (s, c). mod_segments: of all tokens, each with its row of modulation.
    rope_freqs: (1, s, 1, p, 2, 2)."""
    share.begin(call["rope_freqs"].shape[1])
    return {
        "x": share.tokens(call["x"], 0),
        "mod_segments": share.segments(call["mod_segments"]),
        "rope_freqs": share.table(call["rope_freqs"], 1),
    }


def _latent_frames(frames: int) -> int:
    """As ComfyUI's nodes make it: up to whole clips, and the shorter one."""
    return -(-max(0, frames - LAST) // CLIP) * CLIP_LATENT + LAST_LATENT


def _video_frames(latent_frames: int) -> int:
    clips, rest = divmod(latent_frames, CLIP_LATENT)
    return clips * CLIP + (4 * rest - 3 if rest else 0)


def _head_dim(model) -> int:
    return model.blocks[0].attn.head_dim


def _weights(width: int, attention: int, feed_forward: int) -> int:
    """The feed-forward is gated: two layers in, one out. attention: the width of q."""
    return 4 * width * attention + 3 * width * feed_forward


def _size(model):
    first = model.blocks[0]
    heads, head_dim = first.attn.heads, first.attn.head_dim
    weights = _weights(model.hidden_size, heads * head_dim, first.mlp.fc2.in_features)
    return model_size(len(model.blocks), heads, head_dim, weights)


FAMILY = Family(
    name="MiniMax H3",
    classes={
        "comfy.ldm.minimax.model.MiniMaxH3Model": ModelClass(
            _token_layout, lambda model: MINIMAX_H3, splits=True
        )
    },
    presets=(MINIMAX_H3,),
    head_dim=_head_dim,
    size=_size,
    catalog={
        "MiniMax H3": VideoModel(
            MINIMAX_H3,
            model_size(50, 56, 128, _weights(5376, 56 * 128, 14336)),
            stride=16,
            before=256,
            sound=SOUND,
            latent_frames=_latent_frames,
            video_frames=_video_frames,
        )
    },
    block_lists=(BlockList("blocks", "DiTBlock", split=_split),),
    fused_blocks="minimax_h3",
    behind_blocks="final_layer",
    projections=dict.fromkeys("qkv", ("attn.qkv_proj",)) | {"o": ("attn.out_proj",)},
)
