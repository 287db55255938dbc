"""MiniMax H3: 3 blocks, one head; its text encoder, and its VAEs of video and of sound.

ComfyUI 0.16.3 has none of them.
"""

from comfy.ldm.minimax.audio_vae import MiniMaxH3AudioVAE
from comfy.ldm.minimax.model import MiniMaxH3Model
from comfy.ldm.minimax.vae import MiniMaxH3VideoVAE
from comfy.text_encoders.minimax import MiniMaxQwen3VL

from ..standin_sizes.building import built_with
from .weights import OPERATIONS, TEXT_WIDTH, StandIn, in_bfloat16, random_weights

SIZES = {
    "hidden_size": 128,
    "num_layers": 3,
    "token_refiner_num_layers": 1,
    "num_attention_heads": 1,
    "ffn_hidden_size": 256,
    "text_dim": TEXT_WIDTH,
    # The pruned checkpoint has a table of the time's embeddings instead of their layers.
    "adaln_curve_grid": 32,
    "time_embed_dim": 8,
}

LANGUAGE_MODEL = {  # with 50 layers, by which ComfyUI recognizes it
    "hidden_size": TEXT_WIDTH,
    "intermediate_size": TEXT_WIDTH,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
}
VISION = {
    "comfy.text_encoders.qwen3vl.Qwen3VLVisionModel": {
        "config": {
            "hidden_size": 32,
            "intermediate_size": 32,
            "out_hidden_size": TEXT_WIDTH,
            "depth": 3,
            "deepstack_visual_indexes": [0, 1, 2],
            "num_heads": 1,
            "patch_size": 16,
            "temporal_patch_size": 2,
            "in_channels": 3,
            "spatial_merge_size": 2,
            "num_position_embeddings": 16,
        }
    }
}

VIDEO_VAE = {
    "comfy.ldm.minimax.vae.MiniMaxH3VideoVAE": {
        "ch": 32,  # norms are in 32 groups
        "ch_mult": [1] * 6,  # ComfyUI recognizes it by the sixth level
        "num_res_blocks": 1,
    },
    "comfy.ldm.minimax.vae.ViT3DDecoder": {"num_layers": 1, "heads": 1},
}
SOUND_VAE = {
    "comfy.ldm.minimax.audio_vae.MiniMaxH3AudioVAE": {
        "encoder_dim": 2,
        "latent_dim": 64,
        "decoder_dim": 128,
    },
    "comfy.ldm.minimax.audio_vae.BigVGAN": {
        "resblock_kernel_sizes": [3],
        "resblock_dilation_sizes": [[1]],
    },
}


def minimax_h3() -> StandIn:
    return StandIn(in_bfloat16(random_weights(MiniMaxH3Model(**SIZES, **OPERATIONS))))


def qwen3_vl_32b() -> StandIn:
    """ComfyUI has its tokenizer, with 151936 tokens."""
    with built_with(VISION):
        network = MiniMaxQwen3VL(LANGUAGE_MODEL, **OPERATIONS)
    options = {"qwen3vl_32b_model_config": LANGUAGE_MODEL}
    return StandIn(
        in_bfloat16(random_weights(network)),
        {"text_encoder_options": options, "built_with": VISION},
    )


def video_vae() -> StandIn:
    with built_with(VIDEO_VAE):
        return StandIn(random_weights(MiniMaxH3VideoVAE()), {"built_with": VIDEO_VAE})


def sound_vae() -> StandIn:
    with built_with(SOUND_VAE):
        network = MiniMaxH3AudioVAE()
    weights = random_weights(network)
    filters = {name: x for name, x in network.state_dict().items() if name.endswith("filter")}
    return StandIn({**weights, **filters}, {"built_with": SOUND_VAE})


FILES = {
    "diffusion_models/minimax_h3_fl2va_pruned_int8_convrot.safetensors": minimax_h3,
    "text_encoders/qwen3vl_32b_minimax_h3_nvfp4_awq.safetensors": qwen3_vl_32b,
    "vae/minimax_h3_video_vae_fp16.safetensors": video_vae,
    "vae/minimax_h3_audio_vae_fp32.safetensors": sound_vae,
}
