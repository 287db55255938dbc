"""The catalog's models against ComfyUI's classes at their real sizes."""

import re

import pytest
import torch
import zoo
from conftest import pack_module

catalog = pack_module("nodes.families.catalog")
registry = pack_module("nodes.families.registry")


def linear_flops(diffusion_model):
    """2 for each weight of the layers that a video token passes through."""
    return 2 * sum(
        layer.in_features * layer.out_features
        for name, layer in diffusion_model.named_modules()
        if isinstance(layer, torch.nn.Linear) and re.fullmatch(zoo.VIDEO_LAYERS, name)
    )


def test_every_model_in_the_catalog_is_tested():
    assert list(catalog.VIDEO_MODELS) == list(zoo.NAMED)


@pytest.mark.parametrize("model_type", zoo.NAMED)
def test_the_catalogs_sizes_are_the_real_ones(model_type):
    real, entry = zoo.NAMED[model_type].network(), catalog.VIDEO_MODELS[model_type]
    size = registry.size_of(real)
    assert size == entry.size
    assert size.linear_flops == linear_flops(real)
    assert registry.head_dim_of(real) == size.head_dim
    assert catalog.catalog_entry(real, entry) == entry
    latent = entry.latent(848, 496, 85)
    assert catalog.typical_layout(real, entry, latent) == entry.layout(latent)


# One case for each of ComfyUI's models.
CASES = list({case.kind: case for case in reversed(zoo.CASES) if case.is_there}.values())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_class_has_a_size_a_preset_and_a_layout(case):
    real, named = case.model().get_model_object("diffusion_model"), catalog.VIDEO_MODELS["Mochi"]
    entry = catalog.catalog_entry(real, named)
    assert entry.size == registry.size_of(real)
    assert entry.size.linear_flops == linear_flops(real)
    family = registry.family_of(real)
    assert {registry.preset_of(real, whole) for whole in (True, False)} <= set(family.presets)
    latent = case.inputs().latent["samples"].shape[2:]
    layout = catalog.typical_layout(real, entry, tuple(latent))
    assert (layout.frames, layout.height, layout.width) == case.grid
    around = entry.tokens_before(layout.frames) + entry.after
    assert layout.prefix + layout.suffix == around


def test_other_models_have_no_size():
    assert registry.size_of(torch.nn.Linear(2, 2)) is None
