"""Cosmos Predict2. ComfyUI knows its two sizes only, so a small one is set here."""

from dataclasses import replace

import comfy.ldm.cosmos.predict2
import comfy.model_management
import comfy.supported_models
import torch
from comfy.ldm.cosmos.predict2 import MiniTrainDIT
from comfy.model_patcher import ModelPatcher
from comfy_extras.nodes_cosmos import CosmosPredict2ImageToVideoLatent

from .case import ON_PAPER, Case, Inputs, Named, pictures, prompt, weights_of
from .vae import tiny_vae

CONFIG = {
    "image_model": "cosmos_predict2",
    "max_img_h": 240,
    "max_img_w": 240,
    "max_frames": 128,
    "in_channels": 17,  # the last one says which frames are given
    "out_channels": 16,
    "patch_spatial": 2,
    "patch_temporal": 1,
    "model_channels": 128,
    "num_blocks": 3,
    "num_heads": 2,
    "crossattn_emb_channels": 64,
    "pos_emb_cls": "rope3d",
    "use_adaln_lora": True,
    "adaln_lora_dim": 32,
    "rope_enable_fps_modulation": False,
}
CROSS = {"text": 3}
# Newer ones have a fused norm and rope in its place, which has no gradient, not even for training.
TRAINS = hasattr(comfy.ldm.cosmos.predict2, "apply_rotary_pos_emb")


def _real(**sizes) -> Named:
    config = CONFIG | {"crossattn_emb_channels": 1024, "adaln_lora_dim": 256} | sizes
    return Named(
        lambda: MiniTrainDIT(**config, **ON_PAPER), CosmosPredict2ImageToVideoLatent, {"vae": None}
    )


NAMED = {
    "Cosmos Predict2 2B": _real(model_channels=2048, num_blocks=28, num_heads=16),
    "Cosmos Predict2 14B": _real(model_channels=5120, num_blocks=36, num_heads=40),
}
# Linear layers of the blocks that a token of the video passes.
VIDEO_LAYERS = r"blocks\.\d+\.(self_attn\.\w+_proj|cross_attn\.(q|output)_proj|mlp\.layer[12])"


def cosmos():
    config = comfy.supported_models.CosmosI2VPredict2(dict(CONFIG))
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({})
    model.load_model_weights(weights_of(MiniTrainDIT(**CONFIG, **ON_PAPER)))
    device = comfy.model_management.get_torch_device()
    return ModelPatcher(model, device, comfy.model_management.unet_offload_device())


def text(tokens: int = 20, seed: int = 1) -> list:
    return prompt(tokens, 64, seed)


def latent(height: int = 96, length: int = 33, batch_size: int = 1, **given) -> dict:
    size = {"width": 160, "height": height, "length": length, "batch_size": batch_size}
    return CosmosPredict2ImageToVideoLatent.execute(tiny_vae(), **size, **given).args[0]


def text_to_video() -> Inputs:
    """Prompts of two lengths, so a pass each."""
    return Inputs(text(), text(33, seed=2), latent(), cfg=3.0)


def image_to_video() -> Inputs:
    """Two videos at a time, both prompts in one pass."""
    video = latent(batch_size=2, start_image=pictures(1, 96, 160))
    return Inputs(text(), text(seed=2), video, cfg=3.0)


def odd_height() -> Inputs:
    """11 rows of latent pixels, which the model pads to 6 rows of tokens."""
    return Inputs(text(), text(), latent(height=88))


def one(name: str, inputs) -> Case:
    return Case(
        name,
        "CosmosPredict2",
        cosmos,
        inputs,
        (9, 6, 10),
        calls=(1, 1, 1),
        others=CROSS,
        trains=TRAINS,
    )


CASES = [
    replace(one("cosmos predict2 t2v, a pass a prompt", text_to_video), typical=True),
    replace(one("cosmos predict2 i2v, two videos", image_to_video), given=1),
    one("cosmos predict2, odd height", odd_height),
]
