"""HunyuanVideo 1.5: 3 double blocks, one head."""

import json
from pathlib import Path

import comfy.text_encoders
from comfy.ldm.hunyuan_video.model import HunyuanVideo
from comfy.ldm.hunyuan_video.vae_refiner import Decoder, Encoder
from comfy.ldm.models.autoencoder import AutoencodingEngine
from comfy.text_encoders.llama import Qwen25_7BVLI
from comfy.text_encoders.t5 import T5

from ..standin_sizes.building import built_with
from . import hunyuan
from .weights import OPERATIONS, TEXT_WIDTH, StandIn, in_bfloat16, random_weights

MODEL = {
    "comfy.ldm.hunyuan_video.model.ByT5Mapper": {
        "in_dim": TEXT_WIDTH,
        "hidden_dim": TEXT_WIDTH,
        "out_dim": TEXT_WIDTH,
    }
}
VISION = {  # of the language model; unused for text
    "comfy.text_encoders.qwen_vl.Qwen2VLVisionTransformer": {
        "hidden_size": TEXT_WIDTH,
        "intermediate_size": TEXT_WIDTH,
        "num_heads": 1,
        "num_layers": 1,
    }
}
BYT5 = {"d_model": TEXT_WIDTH, "d_kv": TEXT_WIDTH, "d_ff": TEXT_WIDTH, "num_heads": 1}
VAE = {
    f"comfy.ldm.hunyuan_video.vae_refiner.{part}": {
        "block_out_channels": [8, 8, 8, 16, 64],  # the latent has 32 channels
        "num_res_blocks": 0,
    }
    for part in ("Encoder", "Decoder")
}


def hunyuan_video_15() -> StandIn:
    sizes = {
        **hunyuan.SIZES,
        "in_channels": 65,
        "out_channels": 32,
        "vec_in_dim": None,
        "depth": 3,
        "depth_single_blocks": 0,
        "patch_size": [1, 1, 1],
        "guidance_embed": False,
        "byt5": True,
        "use_cond_type_embedding": True,
        "vision_in_dim": 1152,  # by which ComfyUI recognizes the model
        "meanflow_sum": True,
    }
    with built_with(MODEL):
        network = HunyuanVideo(**sizes, **OPERATIONS)
    return StandIn(in_bfloat16(random_weights(network)), {"built_with": MODEL})


def hunyuan_15_vae() -> StandIn:
    sizes = {
        "in_channels": 3,
        "out_channels": 3,
        "z_channels": 32,
        "ffactor_spatial": 16,
        "ffactor_temporal": 4,
    }
    prefix = "comfy.ldm.hunyuan_video.vae_refiner"
    with built_with(VAE):
        network = AutoencodingEngine(
            encoder_config={"target": f"{prefix}.{Encoder.__name__}", "params": sizes},
            decoder_config={"target": f"{prefix}.{Decoder.__name__}", "params": sizes},
            regularizer_config={
                "target": "comfy.ldm.models.autoencoder.DiagonalGaussianRegularizer"
            },
        )
    return StandIn(random_weights(network), {"built_with": VAE})


def qwen_25_vl() -> StandIn:
    """ComfyUI has its tokenizer, with 152064 tokens."""
    with built_with(VISION):
        network = Qwen25_7BVLI(hunyuan.LANGUAGE_MODEL, **OPERATIONS)
    options = {"qwen25_7b_model_config": hunyuan.LANGUAGE_MODEL}
    return StandIn(
        in_bfloat16(random_weights(network)),
        {"text_encoder_options": options, "built_with": VISION},
    )


def byt5() -> StandIn:
    """The encoder of text to be written in the picture. ComfyUI has its tokenizer."""
    config = Path(comfy.text_encoders.__path__[0], "byt5_config_small_glyph.json")
    sizes = {**json.loads(config.read_text()), **BYT5, "num_layers": 1}
    weights = in_bfloat16(random_weights(T5(sizes, **OPERATIONS)))
    # ComfyUI gives this encoder's options no name.
    return StandIn(weights, {"text_encoder_options": {"_model_config": {**BYT5, "num_layers": 1}}})


FILES = {
    "diffusion_models/hunyuanvideo1.5_720p_t2v_fp16.safetensors": hunyuan_video_15,
    "text_encoders/qwen_2.5_vl_7b_fp8_scaled.safetensors": qwen_25_vl,
    "text_encoders/byt5_small_glyphxl_fp16.safetensors": byt5,
    "vae/hunyuanvideo15_vae_fp16.safetensors": hunyuan_15_vae,
}
