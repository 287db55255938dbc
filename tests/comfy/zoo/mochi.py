"""Mochi 1. ComfyUI assumes its size, so it is set here and not read from the weights."""

from dataclasses import replace
from functools import partial

import comfy.model_management
import comfy.supported_models
import torch
from comfy.ldm.genmo.joint_model.asymm_models_joint import AsymmDiTJoint
from comfy.model_patcher import ModelPatcher
from comfy_extras.nodes_mochi import EmptyMochiLatentVideo

from .case import ON_PAPER, Case, Inputs, Named, prompt, weights_of

CONFIG = {
    "image_model": "mochi_preview",
    "depth": 3,
    "patch_size": 2,
    "num_heads": 2,
    "hidden_size_x": 256,
    "hidden_size_y": 64,
    "mlp_ratio_x": 48.0,  # ComfyUI expects a width of 12288
    "mlp_ratio_y": 4.0,
    "learn_sigma": False,
    "in_channels": 12,
    "qk_norm": True,
    "qkv_bias": False,
    "out_bias": True,
    "attn_drop": 0.0,
    "patch_embed_bias": True,
    "posenc_preserve_area": True,
    "timestep_mlp_bias": True,
    "attend_to_padding": False,
    "timestep_scale": 1000.0,
    "use_t5": True,
    "t5_feat_dim": 64,
    "t5_token_length": 32,
    "rope_theta": 10000.0,
}


REAL = {"depth": 48, "hidden_size_x": 3072, "hidden_size_y": 1536, "num_heads": 24}
REAL["mlp_ratio_x"] = 4.0
NAMED = {"Mochi": Named(lambda: AsymmDiTJoint(**CONFIG | REAL, **ON_PAPER), EmptyMochiLatentVideo)}
# Linear layers of the blocks that a token of the video passes.
VIDEO_LAYERS = r"blocks\.\d+\.(attn\.(qkv_x|proj_x)|mlp_x\.w[12])"


def mochi(**sizes):
    sizes = CONFIG | sizes
    config = comfy.supported_models.GenmoMochi(dict(sizes))
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({})
    model.load_model_weights(weights_of(AsymmDiTJoint(**sizes, **ON_PAPER)))
    device = comfy.model_management.get_torch_device()
    return ModelPatcher(model, device, comfy.model_management.unet_offload_device())


def text(tokens: int, seed: int) -> list:
    """A prompt of this many tokens, padded to 32 as by Mochi's text encoder."""
    mask = (torch.arange(32) < tokens).long()[None]
    return prompt(32, 64, seed, attention_mask=mask)


def video(negative_tokens: int) -> Inputs:
    latent = EmptyMochiLatentVideo.execute(width=144, height=80, length=37).args[0]
    return Inputs(text(17, seed=1), text(negative_tokens, seed=2), latent, cfg=3.0)


def one(name: str, negative_tokens: int, *around) -> Case:
    inputs = partial(video, negative_tokens)
    return Case(name, "GenmoMochi", mochi, inputs, (7, 5, 9), around, (1, 1, 1))


CASES = [
    replace(one("mochi", 9, (0, 17), (0, 9)), typical=True),
    one("mochi, both prompts in one pass", 17, (0, 17)),
]
