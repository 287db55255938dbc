"""What the cases of Wan 2.1 and 2.2 share."""

import torch
from comfy.ldm.wan.model import WanModel
from comfy_extras.nodes_hunyuan import EmptyHunyuanLatentVideo

from .case import ON_PAPER, Case, Inputs, Named, load, prompt

SIZE = {"width": 160, "height": 96}  # 10 x 6 patches
TEXT = 20
# Linear layers of the blocks that a token of the video passes.
VIDEO_LAYERS = r"(vace_)?blocks\.\d+\.(self_attn\.[qkvo]|cross_attn\.[qo]|ffn\.\d)"


def wan(network=WanModel, config: dict | None = None, seed: int = 0, **sizes):
    """2 blocks, 2 heads of 128."""
    standard = {"dim": 256, "ffn_dim": 256, "num_heads": 2, "num_layers": 2}
    return load(network(**{**standard, **sizes}, **ON_PAPER), config, seed)


def named(node=EmptyHunyuanLatentVideo, values: dict | None = None, **sizes) -> Named:
    return Named(lambda: WanModel(**sizes, **ON_PAPER), node, values or {})


def text(seed: int = 1, tokens: int = TEXT, **values) -> list:
    return prompt(tokens, 4096, seed, **values)


def video(frames: int = 9, height: int = 12, width: int = 20, **values) -> Inputs:
    """An empty latent. values: further entries of both prompts."""
    latent = {"samples": torch.zeros(1, 16, frames, height, width)}
    return Inputs(text(**values), text(seed=2, **values), latent)


def one(
    name, kind, model, inputs, frames=9, around=((0, 0),), calls=(1, 1), also=(), needs="comfy"
) -> Case:
    """A case with frames of 6 x 10 patches. also: what its blocks attend to besides text."""
    others = {what: sum(calls) for what in ("text", *also)}
    return Case(name, kind, model, inputs, (frames, 6, 10), around, calls, others, needs)
