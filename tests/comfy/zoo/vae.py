"""A tiny Wan 2.1 VAE, for nodes that encode pictures."""

from functools import cache

import comfy.sd
from comfy.ldm.wan.vae import WanVAE

from .case import weights_of


@cache
def tiny_vae():
    """VAE: 8 pixels a latent pixel, 4 frames a latent frame, 16 channels."""
    network = WanVAE(dim=1, z_dim=16, temperal_downsample=[False, True, True])
    return comfy.sd.VAE(sd=weights_of(network))
