"""HunyuanVideo, whose variants are all one class: text tokens before the video's."""

from dataclasses import replace

import torch
from comfy.ldm.hunyuan_video.model import HunyuanVideo
from comfy_extras.nodes_hunyuan import (
    EmptyHunyuanLatentVideo,
    EmptyHunyuanVideo15Latent,
    HunyuanImageToVideo,
    HunyuanVideo15SuperResolution,
)
from node_helpers import conditioning_set_values

from .case import ON_PAPER, Case, Inputs, Named, clip_vision, load, normal, pictures, prompt
from .vae import tiny_vae

SIZE = {"width": 160, "height": 96}
GRID = 9, 6, 10
REFINER = {"text refiner": 2}
TEXT = 20


STANDARD = {
    "in_channels": 16,
    "out_channels": 16,
    "vec_in_dim": 768,
    "context_in_dim": 64,
    "hidden_size": 256,
    "mlp_ratio": 4.0,
    "num_heads": 2,
    "depth": 2,
    "depth_single_blocks": 2,
    "axes_dim": [16, 56, 56],
    "theta": 256,
    "patch_size": [1, 2, 2],
    "qkv_bias": True,
    "guidance_embed": True,
    "byt5": False,
    "meanflow": False,
    "use_cond_type_embedding": False,
    "vision_in_dim": None,
    "meanflow_sum": False,
}
# Linear layers of the blocks that a token of the video passes.
VIDEO_LAYERS = r"double_blocks\.\d+\.img_(attn|mlp)\.\w+|single_blocks\.\d+\.linear[12]"


def network(**sizes):
    return HunyuanVideo(**STANDARD | sizes, **ON_PAPER)


NAMED = {
    "HunyuanVideo": Named(
        lambda: network(
            depth=20, depth_single_blocks=40, hidden_size=3072, num_heads=24, context_in_dim=4096
        ),
        EmptyHunyuanLatentVideo,
    ),
    "HunyuanVideo 1.5": Named(
        lambda: network(
            depth=54,
            depth_single_blocks=0,
            hidden_size=2048,
            num_heads=16,
            context_in_dim=4096,
            vision_in_dim=1152,
            patch_size=[1, 1, 1],
        ),
        EmptyHunyuanVideo15Latent,
    ),
}


def hunyuan_video(**sizes):
    """HunyuanVideo 1.0: 2 double and 2 single blocks."""
    return load(network(**sizes))


def hunyuan_video_15(**sizes):
    """HunyuanVideo 1.5: double blocks only."""
    standard = {
        "in_channels": 65,
        "out_channels": 32,
        "vec_in_dim": None,
        "depth": 2,
        "depth_single_blocks": 0,
        "patch_size": [1, 1, 1],
        "guidance_embed": False,
        "byt5": True,
        "use_cond_type_embedding": True,
        "vision_in_dim": 1152,
        "meanflow_sum": True,
    }
    return hunyuan_video(**{**standard, **sizes})


def text(tokens: int = TEXT, seed: int = 1, **values) -> list:
    return prompt(tokens, 64, seed, pooled_output=normal(1, 768, seed=seed), guidance=6.0, **values)


def masked(tokens: int, absent: list[int], seed: int = 1) -> list:
    """A padded prompt as from ComfyUI's text encoder: mask 1 for a token, 0 for padding."""
    mask = torch.ones(1, tokens, dtype=torch.long)
    mask[:, absent] = 0
    return text(tokens, seed, attention_mask=mask)


def video(positive: list, negative: list | None = None) -> Inputs:
    latent = EmptyHunyuanLatentVideo.execute(**SIZE, length=33).args[0]
    return Inputs(positive, negative or text(seed=2), latent, cfg=3.0 if negative else 1.0)


def image_to_video(guidance_type: str) -> Inputs:
    positive, latent = HunyuanImageToVideo.execute(
        text(),
        tiny_vae(),
        **SIZE,
        length=33,
        batch_size=1,
        guidance_type=guidance_type,
        start_image=pictures(1, 96, 160),
    ).args
    return Inputs(positive, text(seed=2), latent)


def skyreels() -> Inputs:
    positive = conditioning_set_values(text(), {"concat_latent_image": normal(1, 16, 1, 12, 20)})
    return video(positive)


def text_15(seed: int = 1, **values) -> list:
    return prompt(TEXT, 64, seed, pooled_output=None, **values)


def video_15() -> Inputs:
    """The positive prompt has text to be written in the picture, encoded by ByT5."""
    positive = text_15(conditioning_byt5small=normal(1, 13, 1472))
    return Inputs(positive, text_15(seed=2), {"samples": torch.zeros(1, 32, 9, 6, 10)}, cfg=3.0)


def image_to_video_15() -> Inputs:
    mask = torch.ones(1, 1, 9, 6, 10)
    mask[:, :, :1] = 0
    values = {
        "conditioning_byt5small": normal(1, 13, 1472),
        "clip_vision_output": clip_vision(30, 1152),
        "concat_latent_image": normal(1, 32, 9, 6, 10),
        "concat_mask": mask,
    }
    return Inputs(text_15(**values), text_15(seed=2), {"samples": torch.zeros(1, 32, 9, 6, 10)})


def super_resolution_15() -> Inputs:
    positive, negative, latent = HunyuanVideo15SuperResolution.execute(
        text_15(conditioning_byt5small=normal(1, 13, 1472)),
        text_15(seed=2),
        {"samples": normal(1, 32, 9, 6, 10)},
        noise_augmentation=0.7,
        clip_vision_output=clip_vision(30, 1152),
    ).args
    return Inputs(positive, negative, latent)


def hunyuan_image():
    """A MODEL and Inputs of HunyuanImage 2.1."""
    model = hunyuan_video(
        in_channels=64,
        out_channels=64,
        vec_in_dim=None,
        axes_dim=[64, 64],
        patch_size=[1, 1],
        guidance_embed=False,
    )
    return model, Inputs(text_15(), text_15(seed=2), {"samples": torch.zeros(1, 64, 20, 27)})


def one(name, model, inputs, *around, kind="HunyuanVideo", calls=(1, 1, 1, 1)) -> Case:
    return Case(name, kind, model, inputs, GRID, around, calls, REFINER)


def one_15(name, model, inputs, *around, kind="HunyuanVideo15") -> Case:
    return one(name, model, inputs, *around, kind=kind, calls=(1, 1))


CASES = [
    replace(one("hunyuan t2v", hunyuan_video, lambda: video(text()), (TEXT, 0)), typical=True),
    one(
        "hunyuan t2v with a negative prompt",
        hunyuan_video,
        lambda: video(text(), text(33, seed=2)),
        (TEXT, 0),
        (33, 0),
    ),
    one(
        "hunyuan padded prompt",
        hunyuan_video,
        lambda: video(masked(26, [*range(20, 26)])),
        (26, 0),
    ),
    one(
        "hunyuan padded prompts with holes",
        hunyuan_video,
        lambda: video(masked(31, [4, 5, 11, *range(24, 31)]), masked(23, [0, 1, 22], seed=2)),
        (31, 0),
        (23, 0),
    ),
    one(
        "hunyuan i2v concat",
        lambda: hunyuan_video(in_channels=33),
        lambda: image_to_video("v1 (concat)"),
        (TEXT, 0),
        kind="HunyuanVideoI2V",
    ),
    one(
        "hunyuan i2v replace",
        hunyuan_video,
        lambda: image_to_video("v2 (replace)"),
        (TEXT, 0),
    ),
    one(
        "hunyuan reference latent",
        hunyuan_video,
        lambda: image_to_video("custom"),
        (TEXT + 60, 0),
    ),
    one(
        "skyreels i2v",
        lambda: hunyuan_video(in_channels=32),
        skyreels,
        (TEXT, 0),
        kind="HunyuanVideoSkyreelsI2V",
    ),
    one_15("hunyuan 1.5 t2v", hunyuan_video_15, video_15, (TEXT + 13, 0), (TEXT, 0)),
    one_15("hunyuan 1.5 i2v", hunyuan_video_15, image_to_video_15, (TEXT + 13 + 30, 0)),
    one_15(
        "hunyuan 1.5 super-resolution",
        lambda: hunyuan_video_15(in_channels=98, meanflow=True),
        super_resolution_15,
        (TEXT + 13 + 30, 0),
        kind="HunyuanVideo15_SR_Distilled",
    ),
]
