"""Kandinsky 5: text in blocks of its own, then the video's blocks, which attend to it."""

from dataclasses import replace

import torch
from comfy.ldm.kandinsky5.model import Kandinsky5
from comfy_extras.nodes_kandinsky5 import Kandinsky5ImageToVideo

from .case import ON_PAPER, Case, Inputs, Named, load, normal, pictures, prompt
from .vae import tiny_vae

SIZE = {"width": 160, "height": 96}
TEXT = 20
OTHERS = {"text": 2, "text refiner": 2}
NODE = {"positive": [], "negative": [], "vae": None}

NAMED = {
    "Kandinsky 5 Lite": Named(
        lambda: Kandinsky5(model_dim=1792, ff_dim=7168, num_visual_blocks=32, **ON_PAPER),
        Kandinsky5ImageToVideo,
        NODE,
    ),
    "Kandinsky 5 Pro": Named(
        lambda: Kandinsky5(
            model_dim=4096,
            ff_dim=16384,
            time_dim=1024,
            num_text_blocks=4,
            num_visual_blocks=60,
            axes_dims=(32, 48, 48),
            **ON_PAPER,
        ),
        Kandinsky5ImageToVideo,
        NODE,
    ),
}
# Linear layers of the blocks that a token of the video passes.
VIDEO_LAYERS = (
    r"visual_transformer_blocks\.\d+\."
    r"(self_attention\.\w+|cross_attention\.(to_query|out_layer)|feed_forward\.\w+)"
)


def kandinsky():
    """2 blocks for text, 2 for the video, 2 heads of 64."""
    sizes = {"model_dim": 128, "ff_dim": 256, "time_dim": 64, "num_visual_blocks": 2}
    return load(Kandinsky5(**sizes, **ON_PAPER))


def text(tokens: int = TEXT, seed: int = 1) -> list:
    return prompt(tokens, 3584, seed, pooled_output=normal(1, 768, seed=seed))


def prompts_of_two_lengths() -> Inputs:
    """Prompts of two lengths, so a pass each."""
    latent = {"samples": torch.zeros(1, 16, 9, 12, 20)}
    return Inputs(text(), text(33, seed=2), latent, cfg=3.0)


def image_to_video() -> Inputs:
    positive, negative, latent, _ = Kandinsky5ImageToVideo.execute(
        text(),
        text(seed=2),
        tiny_vae(),
        **SIZE,
        length=33,
        batch_size=1,
        start_image=pictures(1, 96, 160),
    ).args
    return Inputs(positive, negative, latent)


def one(name: str, inputs) -> Case:
    return Case(name, "Kandinsky5", kandinsky, inputs, (9, 6, 10), others=OTHERS)


CASES = [
    replace(one("kandinsky 5 t2v, a pass a prompt", prompts_of_two_lengths), typical=True),
    replace(one("kandinsky 5 i2v", image_to_video), given=1),
]
