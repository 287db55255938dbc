"""Wan 2.1 and 2.2: 3 blocks."""

from functools import partial

from comfy.ldm.wan import vae, vae2_2
from comfy.ldm.wan.model import WanModel

from .weights import OPERATIONS, TEXT_WIDTH, StandIn, in_bfloat16, random_weights

DIM = 128  # of a head; ComfyUI derives the number of heads from it
BLOCKS = 3
FEED_FORWARD = 256
VAE = {"dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 0}


def wan_t2v_1_3b() -> StandIn:
    """Two heads."""
    return StandIn(random_weights(_wan(dim=256, ffn_dim=512)), _text_width())


def wan_14b(seed: int, in_dim: int = 16) -> StandIn:
    """One head. in_dim: 36 for image to video."""
    return StandIn(in_bfloat16(random_weights(_wan(in_dim=in_dim), seed)), _text_width())


def wan22_5b() -> StandIn:
    return StandIn(in_bfloat16(random_weights(_wan(in_dim=48, out_dim=48))), _text_width())


def _wan(**sizes) -> WanModel:
    standard = {"dim": DIM, "ffn_dim": FEED_FORWARD, "num_layers": BLOCKS, "text_dim": TEXT_WIDTH}
    sizes = {**standard, **sizes}
    return WanModel(num_heads=sizes["dim"] // 128, **sizes, **OPERATIONS)


def _text_width() -> dict:
    return {"transformer": {"text_dim": TEXT_WIDTH}}


def wan21_vae() -> StandIn:
    return _vae(vae.WanVAE, VAE, z_dim=16)


def wan22_vae() -> StandIn:
    return _vae(vae2_2.WanVAE, {**VAE, "dec_dim": VAE["dim"]}, z_dim=48)


def _vae(network, sizes: dict, z_dim: int) -> StandIn:
    weights = random_weights(network(z_dim=z_dim, temperal_downsample=[False, True, True], **sizes))
    return StandIn(weights, {"built_with": {f"{network.__module__}.{network.__name__}": sizes}})


FILES = {
    "diffusion_models/wan2.1_t2v_1.3B_fp16.safetensors": wan_t2v_1_3b,
    "diffusion_models/wan2.1_t2v_14B_fp8_scaled.safetensors": partial(wan_14b, seed=1),
    "diffusion_models/wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors": partial(wan_14b, seed=2),
    "diffusion_models/wan2.2_t2v_low_noise_14B_fp8_scaled.safetensors": partial(wan_14b, seed=3),
    "diffusion_models/wan2.2_i2v_high_noise_14B_fp8_scaled.safetensors": partial(
        wan_14b, seed=4, in_dim=36
    ),
    "diffusion_models/wan2.2_i2v_low_noise_14B_fp8_scaled.safetensors": partial(
        wan_14b, seed=5, in_dim=36
    ),
    "diffusion_models/wan2.2_ti2v_5B_fp16.safetensors": wan22_5b,
    "vae/wan_2.1_vae.safetensors": wan21_vae,
    "vae/wan2.2_vae.safetensors": wan22_vae,
}
