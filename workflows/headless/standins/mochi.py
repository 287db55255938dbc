"""Mochi 1: 2 blocks, one head."""

from comfy.ldm.genmo.joint_model.asymm_models_joint import AsymmDiTJoint
from comfy.ldm.genmo.vae.model import VideoVAE

from ..standin_sizes.building import built_with
from .weights import OPERATIONS, TEXT_WIDTH, StandIn, in_bfloat16, random_weights

SIZES = {
    "depth": 2,
    "num_heads": 1,
    "hidden_size_x": 128,
    "hidden_size_y": 32,
    "mlp_ratio_x": 96.0,  # ComfyUI expects a width of 12288
    "t5_feat_dim": TEXT_WIDTH,
}
FIXED = {
    "in_channels": 12,
    "mlp_ratio_y": 4.0,
    "learn_sigma": False,
    "qk_norm": True,
    "qkv_bias": False,
    "out_bias": True,
    "attn_drop": 0.0,
    "posenc_preserve_area": True,
    "timestep_scale": 1000.0,
    "use_t5": True,
    "rope_theta": 10000.0,
}
_BLOCKS = {
    "base_channels": 32,  # norms are in 32 groups
    "num_res_blocks": [
        1,
        1,
        4,
        1,
        1,
    ],  # ComfyUI recognizes the VAE by the fourth block of the third
}
VAE = {
    "comfy.ldm.genmo.vae.model.Encoder": {**_BLOCKS, "channel_multipliers": [1, 2, 1, 2]},
    "comfy.ldm.genmo.vae.model.Decoder": {**_BLOCKS, "channel_multipliers": [1, 1, 1, 1]},
}


def mochi() -> StandIn:
    sizes = {"comfy.ldm.genmo.joint_model.asymm_models_joint.AsymmDiTJoint": SIZES}
    weights = random_weights(AsymmDiTJoint(**SIZES, **FIXED, **OPERATIONS))
    return StandIn(in_bfloat16(weights), {"built_with": sizes})


def mochi_vae() -> StandIn:
    with built_with(VAE):
        return StandIn(random_weights(VideoVAE()), {"built_with": VAE})


FILES = {
    "diffusion_models/mochi_preview_bf16.safetensors": mochi,
    "vae/mochi_vae.safetensors": mochi_vae,
}
