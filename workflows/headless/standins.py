"""Tiny random weights in place of real checkpoints, so that a graph runs without downloads.

The architecture is the real one, smaller: ComfyUI's own classes, loaded by its own loaders. What
comes out is coloured noise. Run in the environment, with ComfyUI's folder first:

    python standins.py COMFYUI_FOLDER MODELS_FOLDER
"""

import io
import json
import sys
from pathlib import Path

TEXT_WIDTH = 16


def tiny_wan_t2v():
    """Wan 2.1 text to video: 3 blocks, 2 heads of 128."""
    from comfy.ldm.wan.model import WanModel

    model = WanModel(
        dim=256, ffn_dim=512, num_heads=2, num_layers=3, text_dim=TEXT_WIDTH, **operations()
    )
    return randomised(model), {"transformer": {"text_dim": TEXT_WIDTH}}


def tiny_wan_vae():
    """The VAE of Wan 2.1, 4 channels wide."""
    from comfy.ldm.wan.vae import WanVAE

    vae = WanVAE(dim=4, z_dim=16, temperal_downsample=[False, True, True])
    return randomised(vae), None


def tiny_umt5():
    """UMT5-XXL, 16 wide; the depth and feed-forward width by which ComfyUI knows it are real."""
    import torch
    from comfy.text_encoders.t5 import T5

    tokenizer = _tokenizer()
    config = {
        "d_model": TEXT_WIDTH,
        "d_kv": TEXT_WIDTH,
        "num_heads": 1,
        "num_layers": 24,
        "d_ff": 10240,
        "vocab_size": 512,
        "dense_act_fn": "gelu_pytorch_tanh",
        "is_gated_act": True,
        "model_type": "umt5",
    }
    weights = randomised(T5(config, **operations()))
    weights = {name: x.to(torch.bfloat16) for name, x in weights.items()}
    weights["spiece_model"] = torch.frombuffer(bytearray(tokenizer), dtype=torch.uint8)
    return weights, {"text_encoder_options": {"umt5xxl_model_config": config}}


STAND_INS = {
    "diffusion_models/wan2.1_t2v_1.3B_fp16.safetensors": tiny_wan_t2v,
    "text_encoders/umt5_xxl_fp8_e4m3fn_scaled.safetensors": tiny_umt5,
    "vae/wan_2.1_vae.safetensors": tiny_wan_vae,
}


def write_stand_ins(models: Path):
    """Write every stand-in below the folder `models`, where ComfyUI looks for the real ones."""
    from safetensors.torch import save_file

    for name, make in STAND_INS.items():
        weights, config = make()
        (models / name).parent.mkdir(parents=True, exist_ok=True)
        metadata = {"config": json.dumps(config)} if config else None
        save_file(weights, models / name, metadata)


def operations() -> dict:
    """What ComfyUI's model classes are built with: plain layers, float32, on the CPU."""
    import torch
    from comfy.ops import disable_weight_init

    return {"operations": disable_weight_init, "device": "cpu", "dtype": torch.float32}


def randomised(model) -> dict:
    """The model's weights, drawn anew: matrices keep the size of what they multiply."""
    import torch

    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, x in model.state_dict().items():
        if x.ndim > 1 and not name.endswith("gamma"):
            fan_in = x[0].numel()
            x = torch.randn(x.shape, generator=generator) * fan_in**-0.5
        else:
            x = torch.zeros(x.shape) if name.endswith("bias") else torch.ones(x.shape)
        weights[name] = x
    return weights


def _tokenizer() -> bytes:
    """A sentencepiece model that knows letters and falls back to bytes, so it takes any text."""
    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(["abcdefghijklmnopqrstuvwxyz ,."] * 8),
        model_writer=model,
        vocab_size=300,
        model_type="char",
        byte_fallback=True,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return model.getvalue()


if __name__ == "__main__":
    sys.path[0] = sys.argv[1]  # ComfyUI
    from comfy.cli_args import args

    args.cpu = True
    write_stand_ins(Path(sys.argv[2]))
