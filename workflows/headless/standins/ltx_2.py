"""LTX-2.3: 3 blocks, one head, with sound; its text encoder, and its VAEs of video and of sound.

As with the real ones, one checkpoint holds all but the language model, and says its sizes.
"""

import torch
from comfy.ldm.lightricks.av_model import LTXAVModel
from comfy.ldm.lightricks.vae.causal_audio_autoencoder import CausalAudioAutoencoder
from comfy.ldm.lightricks.vae.causal_video_autoencoder import VideoVAE
from comfy.ldm.lightricks.vocoders.vocoder import VocoderWithBWE
from comfy.text_encoders.llama import Gemma3_12B
from comfy.text_encoders.lt import DualLinearProjection

from ..standin_sizes.building import built_with
from . import tokenizer
from .weights import OPERATIONS, TEXT_WIDTH, StandIn, in_bfloat16, random_weights

VIDEO_WIDTH, SOUND_WIDTH = 128, 64
SIZES = {
    "num_layers": 3,
    "num_attention_heads": 1,
    "attention_head_dim": VIDEO_WIDTH,
    "cross_attention_dim": VIDEO_WIDTH,
    "audio_num_attention_heads": 1,
    "audio_attention_head_dim": SOUND_WIDTH,
    "audio_cross_attention_dim": SOUND_WIDTH,
    "connector_num_attention_heads": 1,
    "connector_attention_head_dim": VIDEO_WIDTH,
    "audio_connector_num_attention_heads": 1,
    "audio_connector_attention_head_dim": SOUND_WIDTH,
    "connector_num_layers": 1,
    "use_middle_indices_grid": True,
    "rope_type": "split",
    "frequencies_precision": "float64",
    # What 2.3 has besides.
    "apply_gated_attention": True,
    "connector_apply_gated_attention": True,
    "cross_attention_adaln": True,
    "caption_proj_before_connector": True,
    "caption_projection_first_linear": False,
}

LANGUAGE_MODEL = {  # with 48 layers, by which ComfyUI recognizes it
    "vocab_size": 512,
    "hidden_size": TEXT_WIDTH,
    "intermediate_size": TEXT_WIDTH,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
}
VISION = {
    "num_channels": 3,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_size": 32,
    "image_size": 28,
    "intermediate_size": 32,
    "model_type": "siglip_vision_model",
    "num_attention_heads": 1,
    "num_hidden_layers": 1,
    "patch_size": 14,
}
PICTURES = {"comfy.clip_model.CLIPVision": {"config_dict": VISION}}
PROJECTION = {
    "comfy.text_encoders.lt.DualLinearProjection": {
        "in_dim": 49 * TEXT_WIDTH,  # of all layers, and what goes into the first
        "out_dim_video": VIDEO_WIDTH,
        "out_dim_audio": SOUND_WIDTH,
    }
}

VIDEO_VAE = {
    "dims": 3,
    "latent_channels": 128,
    "encoder_base_channels": 8,
    "decoder_base_channels": 8,
    "encoder_blocks": [
        ["compress_space_res", {"multiplier": 2}],
        ["compress_time_res", {"multiplier": 2}],
        ["compress_all_res", {"multiplier": 2}],
        ["compress_all_res", {"multiplier": 1}],
        ["res_x", {"num_layers": 1}],
    ],
    "decoder_blocks": [
        ["compress_all", {"residual": True, "multiplier": 2}],
        ["compress_all", {"residual": True, "multiplier": 2}],
        ["compress_all", {"residual": True, "multiplier": 2}],
        ["res_x", {"num_layers": 1}],
    ],
    "norm_layer": "pixel_norm",
    "patch_size": 4,
    "latent_log_var": "uniform",
}

SOUND_VAE = {
    "model": {
        "params": {
            "sampling_rate": 16000,
            "ddconfig": {
                "ch": 8,
                "ch_mult": [1, 2, 4],
                "num_res_blocks": 1,
                "in_channels": 2,
                "out_ch": 2,
                "z_channels": 8,
                "mel_bins": 64,
                "resolution": 256,
                "attn_resolutions": [],
                "mid_block_add_attention": False,
                "norm_type": "pixel",
                "causality_axis": "height",
            },
        }
    },
    "preprocessing": {"stft": {"hop_length": 160, "filter_length": 1024}},
}
ONE_LAYER = {
    "resblock": "AMP1",
    "activation": "snakebeta",
    "resblock_kernel_sizes": [3],
    "resblock_dilation_sizes": [[1, 1, 1]],
}
VOCODER = {  # of 160 samples a step, 16,000 a second, and then three for one
    "vocoder": {
        **ONE_LAYER,
        "upsample_initial_channel": 32,
        "upsample_rates": [16, 10],
        "upsample_kernel_sizes": [32, 20],
    },
    "bwe": {
        **ONE_LAYER,
        "upsample_initial_channel": 16,
        "upsample_rates": [16, 15],
        "upsample_kernel_sizes": [32, 31],
        "input_sampling_rate": 16000,
        "output_sampling_rate": 48000,
        "hop_length": 80,
        "n_fft": 512,
        "num_mels": 64,
    },
}


def ltx_23() -> StandIn:
    with built_with(PROJECTION):
        projection = DualLinearProjection(None, None, None, **OPERATIONS)
    parts = {
        "model.diffusion_model": LTXAVModel(**SIZES, **OPERATIONS),
        "text_embedding_projection": projection,
        "vae": VideoVAE(config=VIDEO_VAE),
        "audio_vae": CausalAudioAutoencoder(SOUND_VAE),
        "vocoder": VocoderWithBWE(VOCODER),
    }
    weights = {}
    for part, network in parts.items():
        filters = {name: x for name, x in network.state_dict().items() if name.endswith("filter")}
        for name, x in {**random_weights(network), **filters}.items():
            weights[f"{part}.{name}"] = x.to(torch.bfloat16) if "model" in part else x
    sizes = {"transformer": SIZES, "vae": VIDEO_VAE, "audio_vae": SOUND_VAE, "vocoder": VOCODER}
    return StandIn(weights, {**sizes, "built_with": PROJECTION})


def gemma_3_12b() -> StandIn:
    with built_with(PICTURES):
        network = Gemma3_12B(LANGUAGE_MODEL, **OPERATIONS)
    weights = in_bfloat16(random_weights(network))
    weights["spiece_model"] = tokenizer.letters(pad_id=0, eos_id=1, bos_id=2, unk_id=3)
    # ComfyUI gives this encoder's options no name.
    options = {"_model_config": LANGUAGE_MODEL}
    return StandIn(weights, {"text_encoder_options": options, "built_with": PICTURES})


FILES = {
    "checkpoints/ltx-2.3-22b-dev-fp8.safetensors": ltx_23,
    "text_encoders/gemma_3_12B_it_fp4_mixed.safetensors": gemma_3_12b,
}
