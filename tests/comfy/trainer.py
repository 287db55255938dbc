"""ComfyUI's Train LoRA on a tiny model, with our training nodes."""

import warnings

import comfy.sd
import torch
from comfy_extras.nodes_train import TrainLoraNode
from conftest import NEWEST, VERSION

import nodes

TRAINING = {
    "batch_size": 1,
    "steps": 1,
    "grad_accumulation_steps": 1,
    "learning_rate": 1.0,
    "rank": 2,
    "optimizer": "SGD",  # after one step, weights that started at zero are the gradient
    "loss_function": "MSE",
    "seed": 1,
    "training_dtype": "fp32",
    "lora_dtype": "fp32",
    "quantized_backward": False,
    "algorithm": "LoRA",
    "gradient_checkpointing": False,
    "checkpoint_depth": 1,
    "offloading": False,
    "existing_lora": "[None]",
    "bucket_mode": False,
    "bypass_mode": False,
}


def train(model, positive, clips=None, **values):
    """Run Train LoRA with fixed seeds. Returns the LORA_MODEL and the losses."""
    values = {**TRAINING, **values}
    if VERSION != NEWEST.version:
        del values["quantized_backward"]
    inputs = {name: [value] for name, value in values.items()}
    latents = {"samples": clip() if clips is None else clips}
    torch.manual_seed(5)  # for the adapters and the noise levels
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "In CPU autocast, but the target dtype is not supported")
        out = TrainLoraNode.execute(model=[model], latents=[latents], positive=[positive], **inputs)
    return out.args[0], out.args[1]["loss"]


def clip(number=1, seed=0):
    """Latents of 9 frames."""
    return torch.randn(number, 16, 9, 12, 20, generator=torch.Generator().manual_seed(seed))


def layers(model, names="q, k, v, o"):
    return nodes.NODE_CLASS_MAPPINGS["RadialTrainLayers"].execute(model, names).args[0]


def trim(lora):
    return nodes.NODE_CLASS_MAPPINGS["RadialTrimLora"].execute(lora).args[0]


def gradients(lora):
    """The weights that started at zero, flattened: their gradient after one step of SGD."""
    ends = ("lora_down.weight", ".diff", ".diff_b")
    return torch.cat([x.flatten() for name, x in sorted(lora.items()) if name.endswith(ends)])


def wan_model(stand_ins):
    """The stand-in Wan 2.1 T2V from its file, which Train LoRA loads again."""
    path = stand_ins / "diffusion_models/wan2.1_t2v_1.3B_fp16.safetensors"
    return comfy.sd.load_diffusion_model(str(path))
