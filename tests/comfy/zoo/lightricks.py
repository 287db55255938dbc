"""LTX-Video, and LTX-2 with sound. Guides are appended to the video's latent as further frames."""

from dataclasses import replace
from functools import partial

import torch
from comfy.ldm.lightricks.av_model import LTXAVModel
from comfy.ldm.lightricks.model import LTXVModel
from comfy_extras.nodes_lt import (
    EmptyLTXVLatentVideo,
    LTXVAddGuide,
    LTXVConcatAVLatent,
    LTXVImgToVideo,
    LTXVImgToVideoInplace,
)

from .case import ON_PAPER, Case, Inputs, Named, load, normal, pictures, prompt

GRID = (9, 6, 10)
SIZE = {"width": 320, "height": 192, "length": 65}
FRAME = 6 * 10
TEXT = 48  # channels
SOUND = 65  # latents: 25 a second, as many as frames
VIDEO = {"num_layers": 3, "num_attention_heads": 2, "caption_channels": TEXT}
LTX_VIDEO = VIDEO | {"attention_head_dim": 64, "cross_attention_dim": 128}
LTX_2 = VIDEO | {
    "attention_head_dim": 128,
    "cross_attention_dim": 256,
    "audio_num_attention_heads": 2,
    "audio_attention_head_dim": 64,
    "audio_cross_attention_dim": 128,
    "connector_num_attention_heads": 2,
    "connector_attention_head_dim": TEXT // 2,
    "connector_num_layers": 1,
    "use_middle_indices_grid": True,
    "rope_type": "split",
    "frequencies_precision": "float64",
}
# What 2.3 has besides: gates, and text as wide as the video and the sound.
LTX_2_3 = LTX_2 | {
    "apply_gated_attention": True,
    "connector_apply_gated_attention": True,
    "cross_attention_adaln": True,
    "caption_proj_before_connector": True,
    "caption_projection_first_linear": False,
    "connector_attention_head_dim": 128,
    "audio_connector_attention_head_dim": 64,
}
NAMED = {
    "LTX-Video 2B": Named(lambda: LTXVModel(**ON_PAPER), EmptyLTXVLatentVideo),
    "LTX-Video 13B": Named(
        lambda: LTXVModel(
            num_layers=48, attention_head_dim=128, cross_attention_dim=4096, **ON_PAPER
        ),
        EmptyLTXVLatentVideo,
    ),
    "LTX-2": Named(lambda: LTXAVModel(**ON_PAPER), EmptyLTXVLatentVideo),
}
# Linear layers of the blocks that a token of the video passes, but for gates.
VIDEO_LAYERS = (
    r"transformer_blocks\.\d+\.(attn1\.to_([qkv]|out\.0)|(attn2|audio_to_video_attn)\.to_(q|out\.0)"
    r"|video_to_audio_attn\.to_[kv]|ff\.net\.(0\.proj|2))"
)


def model(network, config: dict):
    """3 blocks, 2 heads."""
    return load(network(**config, **ON_PAPER), config)


class VideoVAE:
    """Stands for LTX's: 32 pixels a latent pixel, 8 frames a latent frame."""

    downscale_index_formula = (8, 32, 32)

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        number, height, width, _ = frames.shape
        return normal(1, 128, (number - 1) // 8 + 1, height // 32, width // 32, seed=number)


def text(tokens: int = 20, seed: int = 1) -> list:
    """LTX-Video's. The last tokens are padding, as its text encoder marks them."""
    mask = torch.ones(1, tokens, dtype=torch.long)
    mask[:, -3:] = 0
    return prompt(tokens, TEXT, seed, attention_mask=mask)


def two_texts(width: int) -> tuple[list, list]:
    """LTX-2's: prompts of two lengths, which the model itself brings to 1024 tokens."""
    return tuple(
        prompt(tokens, width, tokens, unprocessed_ltxav_embeds=True) for tokens in (20, 33)
    )


def empty(**size) -> dict:
    return EmptyLTXVLatentVideo.execute(**SIZE | size).args[0]


def with_sound(latent: dict) -> dict:
    sound = {"samples": torch.zeros(1, 8, SOUND, 16), "type": "audio"}
    return LTXVConcatAVLatent.execute(latent, sound).args[0]


def text_to_video() -> Inputs:
    """Prompts of two lengths, so a pass each."""
    return Inputs(text(), text(33, seed=2), empty(), cfg=3.0)


def image_to_video() -> Inputs:
    """Two videos at a time, both prompts in one pass. The first frame is given."""
    given = (text(), text(seed=2), pictures(1, 192, 320), VideoVAE())
    out = LTXVImgToVideo.execute(*given, **SIZE, batch_size=2, strength=1.0)
    return Inputs(*out.args, cfg=3.0)


def odd_size() -> Inputs:
    return Inputs(text(), text(), empty(width=352, height=224, length=49))


def guided(latent: dict, prompts: tuple, **options) -> Inputs:
    """A first frame and one in the middle."""
    for index in (0, 32):
        picture = pictures(1, 192, 320, seed=index)
        given = (*prompts, VideoVAE(), latent, picture, index)
        *prompts, latent = LTXVAddGuide.execute(*given, **{"strength": 1.0, **options}).args
    return Inputs(*prompts, latent)


def guides(**options) -> Inputs:
    return guided(empty(), (text(), text(seed=2)), **options)


def guide_with_gaps() -> Inputs:
    """The second guide has half the resolution, so the model drops 3 of 4 of its tokens."""
    inputs = guides()
    mask = inputs.latent["noise_mask"].repeat(1, 1, 1, 6, 10)
    kept = torch.zeros(6, 10, dtype=torch.bool)
    kept[::2, ::2] = True
    mask[:, :, -1, ~kept] = -1.0
    return replace(inputs, latent=inputs.latent | {"noise_mask": mask})


def sound_and_first_frame() -> Inputs:
    video = LTXVImgToVideoInplace.execute(VideoVAE(), pictures(1, 192, 320), empty(), 1.0).args[0]
    return Inputs(*two_texts(TEXT), with_sound(video), cfg=3.0)


def sound_and_guides() -> Inputs:
    """Guides are added to the video alone, before the sound."""
    inputs = guided(empty(), two_texts(256 + 128))
    return replace(inputs, latent=with_sound(inputs.latent))


def no_sound() -> Inputs:
    return Inputs(*two_texts(TEXT), empty())


CROSS = {"text": 3}
CROSS_AND_SOUND = {"text": 2 * 3, "audio": 2 * 3, "sound": 3}
NO_TRAINING = {"trains": False}  # blocks change their input in place, after it went into a norm


def ltx_video(name: str, inputs, grid=GRID, guides: int = 0) -> Case:
    network = partial(model, LTXVModel, LTX_VIDEO)
    where = grid, ((0, guides),), (1, 1, 1), CROSS
    return Case(f"ltx-video {name}", "LTXV", network, inputs, *where, **NO_TRAINING)


def ltx_2(name: str, inputs, others=CROSS_AND_SOUND, guides: int = 0, config=LTX_2) -> Case:
    network = partial(model, LTXAVModel, config)
    where = GRID, ((0, guides),), (1, 1, 1), others
    return Case(f"ltx-2{name}", "LTXAV", network, inputs, *where, **NO_TRAINING)


CASES = [
    replace(ltx_video("t2v, a pass a prompt", text_to_video), typical=True),
    ltx_video("i2v, two videos", image_to_video),
    ltx_video("odd size", odd_size, grid=(7, 7, 11)),
    ltx_video("guides", guides, guides=2 * FRAME),
    ltx_video("guide with gaps", guide_with_gaps, guides=FRAME + FRAME // 4),
    ltx_2(" i2v with sound", sound_and_first_frame),
    ltx_2(" without sound", no_sound, others=CROSS),
    ltx_2(".3 guides with sound", sound_and_guides, guides=2 * FRAME, config=LTX_2_3),
]
