"""The catalog's models against ComfyUI's classes at their real sizes."""

import re

import pytest
import torch
import zoo
from comfy.ldm.wan.model import WanModel
from conftest import pack_module

catalog = pack_module("nodes.families.catalog")
registry = pack_module("nodes.families.registry")

NETWORKS = {  # as comfy.model_detection reads them from the weights
    "Wan 2.1 14B": dict(dim=5120, ffn_dim=13824, num_heads=40, num_layers=40),
    "Wan 2.1 1.3B": dict(dim=1536, ffn_dim=8960, num_heads=12, num_layers=30),
    "Wan 2.2 A14B": dict(dim=5120, ffn_dim=13824, num_heads=40, num_layers=40, in_dim=36),
    "Wan 2.2 5B": dict(dim=3072, ffn_dim=14336, num_heads=24, num_layers=30, in_dim=48, out_dim=48),
    "HunyuanVideo": dict(depth=20, depth_single_blocks=40, hidden_size=3072, num_heads=24),
    "HunyuanVideo 1.5": dict(
        depth=54,
        depth_single_blocks=0,
        hidden_size=2048,
        num_heads=16,
        vision_in_dim=1152,
        patch_size=[1, 1, 1],
    ),
    "Mochi": dict(depth=48, hidden_size_x=3072, hidden_size_y=1536, num_heads=24, mlp_ratio_x=4.0),
}
REST_OF_HUNYUAN = dict(
    in_channels=16,
    out_channels=16,
    vec_in_dim=768,
    context_in_dim=4096,
    mlp_ratio=4.0,
    axes_dim=[16, 56, 56],
    theta=256,
    patch_size=[1, 2, 2],
    qkv_bias=True,
    guidance_embed=True,
    byt5=False,
    meanflow=False,
    use_cond_type_embedding=False,
    vision_in_dim=None,
    meanflow_sum=False,
)
# The blocks' layers that a video token passes through, by the model's package.
VIDEO_LAYERS = {
    "wan": r"(vace_)?blocks\.\d+\.(self_attn\.[qkvo]|cross_attn\.[qo]|ffn\.\d)",
    "hunyuan_video": r"double_blocks\.\d+\.img_(attn|mlp)\.\w+|single_blocks\.\d+\.linear[12]",
    "genmo": r"blocks\.\d+\.(attn\.(qkv_x|proj_x)|mlp_x\.w[12])",
}


def network(model_type):
    """ComfyUI's class at its real size, without weights."""
    sizes, paper = NETWORKS[model_type], zoo.case.ON_PAPER
    if model_type.startswith("Wan"):
        return WanModel(**sizes, **paper)
    if model_type.startswith("Hunyuan"):
        return zoo.hunyuan_video.HunyuanVideo(**REST_OF_HUNYUAN | sizes, **paper)
    return zoo.mochi.AsymmDiTJoint(**zoo.mochi.CONFIG | sizes, **paper)


def linear_flops(diffusion_model):
    """2 for each weight of the layers that a video token passes through."""
    layers = VIDEO_LAYERS[type(diffusion_model).__module__.split(".")[2]]
    return 2 * sum(
        layer.in_features * layer.out_features
        for name, layer in diffusion_model.named_modules()
        if isinstance(layer, torch.nn.Linear) and re.fullmatch(layers, name)
    )


@pytest.mark.parametrize("model_type", NETWORKS)
def test_the_catalogs_sizes_are_the_real_ones(model_type):
    real = network(model_type)
    size, entry = registry.size_of(real), catalog.VIDEO_MODELS[model_type]
    assert size == entry.size
    assert size.linear_flops == linear_flops(real)
    assert catalog.catalog_entry(real, entry) == entry
    latent = entry.latent(848, 496, 85)
    assert catalog.layout_of(real, entry, latent) == entry.layout(latent)


# One case for each class of model.
CLASSES = {
    "wan t2v, two videos",
    "wan vace, two contexts",
    "wan camera",
    "humo 1.7b",
    "scail",
    "scail 2",
    "wan causal, sampled as any other",
    "wan 2.2 ti2v 5b",
    "wan s2v",
    "wan animate",
    "wandancer",
    "hunyuan t2v",
    "hunyuan 1.5 t2v",
    "mochi",
}
CASES = [case for case in zoo.CASES if case.is_there and case.name in CLASSES]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_class_has_a_size_and_a_layout(case):
    real, named = case.model().get_model_object("diffusion_model"), catalog.VIDEO_MODELS["Mochi"]
    entry = catalog.catalog_entry(real, named)
    assert entry.size == registry.size_of(real)
    assert entry.size.linear_flops == linear_flops(real)
    latent = case.inputs().latent["samples"].shape[2:]
    layout = catalog.layout_of(real, entry, tuple(latent))
    assert (layout.frames, layout.height, layout.width) == case.grid
    assert layout.prefix + layout.suffix == entry.before + entry.after


def test_other_models_have_no_size():
    assert registry.size_of(torch.nn.Linear(2, 2)) is None
