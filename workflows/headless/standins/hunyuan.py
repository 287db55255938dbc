"""HunyuanVideo: 2 double blocks and 2 single ones, one head."""

from comfy.clip_model import CLIPTextModel
from comfy.ldm.hunyuan_video.model import HunyuanVideo
from comfy.ldm.models.autoencoder import AutoencoderKL
from comfy.text_encoders.llama import Llama2

from ..standin_sizes.building import built_with
from .weights import OPERATIONS, TEXT_WIDTH, StandIn, in_bfloat16, random_weights

SIZES = {
    "in_channels": 16,
    "out_channels": 16,
    "vec_in_dim": TEXT_WIDTH,
    "context_in_dim": TEXT_WIDTH,
    "hidden_size": 128,
    "mlp_ratio": 4.0,
    "num_heads": 1,
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
CLIP_SIZES = {"vec_in_dim": TEXT_WIDTH}

LANGUAGE_MODEL = {
    "hidden_size": TEXT_WIDTH,
    "intermediate_size": TEXT_WIDTH,
    "num_hidden_layers": 4,  # ComfyUI uses the output of the third last
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
}
CLIP = {
    "hidden_size": TEXT_WIDTH,
    "intermediate_size": TEXT_WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
}

_CHANNELS = {"ch": 32, "ch_mult": [1, 1, 1, 1], "num_res_blocks": 0}  # norms are in 32 groups
VAE = {
    "comfy.ldm.modules.diffusionmodules.model.Encoder": _CHANNELS,
    "comfy.ldm.modules.diffusionmodules.model.Decoder": _CHANNELS,
}


def hunyuan_video() -> StandIn:
    sizes = {"comfy.ldm.hunyuan_video.model.HunyuanVideo": CLIP_SIZES}
    weights = random_weights(HunyuanVideo(**SIZES, **OPERATIONS))
    return StandIn(in_bfloat16(weights), {"built_with": sizes})


def hunyuan_vae() -> StandIn:
    sizes = {
        "double_z": True,
        "z_channels": 16,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "attn_resolutions": [],
        "conv3d": True,
        "time_compress": 4,
    }
    with built_with(VAE):
        network = AutoencoderKL(ddconfig=sizes, embed_dim=16)
    return StandIn(random_weights(network), {"built_with": VAE})


def llava_llama3() -> StandIn:
    """ComfyUI has its tokenizer, with 128320 tokens."""
    weights = in_bfloat16(random_weights(Llama2(LANGUAGE_MODEL, **OPERATIONS)))
    return StandIn(weights, {"text_encoder_options": {"llama_model_config": LANGUAGE_MODEL}})


def clip_l() -> StandIn:
    """ComfyUI has its tokenizer, with 49408 tokens, and its other sizes."""
    fixed = {"hidden_act": "quick_gelu", "max_position_embeddings": 77, "eos_token_id": 49407}
    weights = in_bfloat16(random_weights(CLIPTextModel({**CLIP, **fixed}, **OPERATIONS)))
    return StandIn(weights, {"text_encoder_options": {"model_config": CLIP}})


FILES = {
    "diffusion_models/hunyuan_video_t2v_720p_bf16.safetensors": hunyuan_video,
    "text_encoders/llava_llama3_fp8_scaled.safetensors": llava_llama3,
    "text_encoders/clip_l.safetensors": clip_l,
    "vae/hunyuan_video_vae_bf16.safetensors": hunyuan_vae,
}
