"""Video models by name, for estimates before a model is loaded, and the entry of a loaded one."""

import math
from dataclasses import replace

import torch

from ...radial_core import VideoLayout
from .base import VideoModel
from .registry import FAMILIES, family_of, preset_of, size_of, token_layout_of, why_no_estimate

# In the order in which the preview offers them.
VIDEO_MODELS: dict[str, VideoModel] = {
    name: model for family in FAMILIES for name, model in family.catalog.items()
}


def why_no_catalog_entry(diffusion_model) -> str | None:
    """Why there is no entry for a model; None if there is."""
    why = why_no_estimate(diffusion_model)
    if why is None and not family_of(diffusion_model).catalog:
        return f"this pack has no entry for {family_of(diffusion_model).name} in its catalog"
    return why


def catalog_entry(diffusion_model, chosen: VideoModel) -> VideoModel:
    """The entry for a model, with the model's own size, if `why_no_catalog_entry` is None.

    chosen: decides where a model could be either of two: Wan 2.1 and the experts of Wan 2.2 have
    the same architecture.
    """
    possible = {preset_of(diffusion_model, whole_schedule) for whole_schedule in (True, False)}
    preset = chosen.preset if chosen.preset in possible else preset_of(diffusion_model, True)
    entries = list(family_of(diffusion_model).catalog.values())
    with_preset = (entry for entry in (chosen, *entries) if entry.preset is preset)
    entry = next(with_preset, entries[0])  # a preset may have no entry of its own
    return replace(entry, preset=preset, size=size_of(diffusion_model))


def typical_layout(diffusion_model, entry: VideoModel, latent: tuple[int, int, int]) -> VideoLayout:
    """Where the video is in a model's sequence, with a typical prompt."""
    x = torch.empty(0, 0, *latent, device="meta")
    tokens = token_layout_of(diffusion_model, x, None, {})
    before = entry.tokens_before(latent[0])
    return tokens.layout(math.prod(tokens.grid) + before + entry.after)
