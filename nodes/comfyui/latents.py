"""The latents that a model gets. ComfyUI packs several of them, as video and sound, into one."""

import math

import torch


def video_of(x: torch.Tensor, conditions: dict) -> torch.Tensor:
    """The video in what BaseModel.apply_model gets, as a view: the first of several latents.

    x: (b, 1, n) if it is several, flattened one after another, else the latent itself. conditions:
    what apply_model gets besides, with the latents' shapes.
    """
    shapes = conditions.get("latent_shapes") or ()
    if len(shapes) < 2:
        return x
    shape = shapes[0][1:]
    size = math.prod(shape)
    if x.shape[2] < size:  # a part of all, for a prompt with an area: no latent can be made of it
        return x
    return x[:, 0, :size].unflatten(1, shape)
