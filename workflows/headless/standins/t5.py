"""T5 encoders: UMT5-XXL for Wan, T5-XXL for Mochi."""

from comfy.text_encoders.t5 import T5

from . import tokenizer
from .weights import OPERATIONS, TEXT_WIDTH, StandIn, in_bfloat16, random_weights

# ComfyUI recognizes them by depth and feed-forward width, so these are the real ones.
SIZES = {
    "d_model": TEXT_WIDTH,
    "d_kv": TEXT_WIDTH,
    "num_heads": 1,
    "num_layers": 24,
    "d_ff": 10240,
    "dense_act_fn": "gelu_pytorch_tanh",
    "is_gated_act": True,
}


def umt5_xxl() -> StandIn:
    config = {**SIZES, "vocab_size": 512, "model_type": "umt5"}
    weights = in_bfloat16(random_weights(T5(config, **OPERATIONS)))
    weights["spiece_model"] = tokenizer.letters(pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    return StandIn(weights, {"text_encoder_options": {"umt5xxl_model_config": config}})


def t5_xxl() -> StandIn:
    """ComfyUI has its tokenizer, with 32128 tokens."""
    config = {**SIZES, "vocab_size": 32128, "model_type": "t5"}
    weights = in_bfloat16(random_weights(T5(config, **OPERATIONS)))
    return StandIn(weights, {"text_encoder_options": {"t5xxl_model_config": config}})


FILES = {
    "text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors": umt5_xxl,
    "text_encoders/t5xxl_fp16.safetensors": t5_xxl,
}
