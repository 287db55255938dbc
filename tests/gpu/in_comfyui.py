"""Wan 1.3B with random weights, in a real ComfyUI as a library.

RADIAL_ATTENTION_COMFYUI is its folder. RADIAL_ATTENTION_DYNAMIC=1 has it load weights as they are
used (DynamicVRAM), as its main.py does on NVIDIA's GPUs.
"""

import importlib
import os
import sys
from pathlib import Path

import pytest
import torch

COMFYUI = os.environ.get("RADIAL_ATTENTION_COMFYUI")
DYNAMIC = os.environ.get("RADIAL_ATTENTION_DYNAMIC") == "1"
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

SIZES = dict(model_type="t2v", dim=1536, ffn_dim=8960, num_heads=12, num_layers=30, in_dim=16)
SHAPES = {}  # of the weights, by name
LATENT, STEPS = (21, 60, 104), 4


@pytest.fixture(scope="session")
def pack():
    """The pack's modules by name, in a ComfyUI that runs as main.py starts it."""
    sys.path.insert(0, COMFYUI)
    if DYNAMIC:
        import comfy_aimdo.control

        comfy_aimdo.control.init()
    import comfy.memory_management
    import comfy.model_management
    import comfy.model_patcher
    import comfy.ops
    from comfy.ldm.wan.model import WanModel
    from end_to_end_models import PACK, radial_node

    with torch.device("meta"):  # DynamicVRAM makes no weights before they are loaded
        network = WanModel(**SIZES, operations=comfy.ops.disable_weight_init)
        SHAPES.update({name: x.shape for name, x in network.state_dict().items()})
    if DYNAMIC:
        devices = comfy.model_management.get_all_torch_devices()
        assert comfy_aimdo.control.init_devices((d.index, 2**30) for d in devices)
        comfy.model_patcher.CoreModelPatcher = comfy.model_patcher.ModelPatcherDynamic
        comfy.memory_management.aimdo_enabled = True
    radial_node()
    return lambda name: importlib.import_module(f"{PACK}.nodes.{name}")


@pytest.fixture(scope="session")
def model(pack):
    return load(drawn())


def drawn() -> dict[str, torch.Tensor]:
    """Random weights that preserve the scale of their input; norms are near one."""
    generator = torch.Generator("cuda").manual_seed(0)
    weights = {}
    for name, shape in SHAPES.items():
        noise = torch.randn(shape, device="cuda", generator=generator)
        scale = shape[1:].numel() ** -0.5 if len(shape) > 1 else 0.1
        noise = noise * scale + (len(shape) == 1 and not name.endswith("bias"))
        weights[name] = noise.to(torch.bfloat16).cpu()
    return weights


def load(weights, dtype=torch.bfloat16, metadata=None):
    """A MODEL, loaded as from a file. dtype: None for that of the weights."""
    import comfy.sd

    options = {} if dtype is None else {"dtype": dtype}
    model = comfy.sd.load_diffusion_model_state_dict(
        weights, model_options=options, metadata=metadata
    )
    assert model.is_dynamic() == DYNAMIC
    return model


def with_lora(model, layers=("blocks.0.ffn.0.weight", "blocks.7.self_attn.q.weight")):
    model, patches = model.clone(), {}
    generator = torch.Generator().manual_seed(7)
    for name in layers:
        noise = torch.randn(SHAPES[name], generator=generator) * SHAPES[name][1] ** -0.5
        patches[f"diffusion_model.{name}"] = (noise,)
    assert len(model.add_patches(patches, 0.7)) == len(layers)
    return model


def sample(model, seed=0):
    import comfy.sample

    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn((1, 16, *LATENT), generator=generator)
    prompt = [[torch.randn((1, 512, 4096), generator=generator), {}]]
    empty = torch.zeros_like(noise)
    given = (STEPS, 1.0, "euler", "simple", prompt, prompt, empty)
    with torch.inference_mode():
        return comfy.sample.sample(model, noise, *given, disable_pbar=True, seed=0)


def differ(one, other):
    return ((one - other).double().norm() / one.double().norm()).item()
