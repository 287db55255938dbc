"""A fixed "VAE" in closed form: the discrete cosine transform of 4 x 4 blocks, 16 values kept.

No trained VAE was available, and one of our own would add its errors to the figures; this one keeps
`video.py`'s clips at 40 dB. It keeps the 10 lowest frequencies of luma and the 3 lowest of each
chroma. One latent frame is one frame of pixels.

Lab latents are the network's input: variance 1 over all channels, the spectrum half whitened (each
channel is divided by the root of its spread). Fully whitened, invisible edges would count as much
as colours; not whitened, only colours would count.

ComfyUI keeps a Wan latent in the units of Wan's VAE and converts it to the network's units:
`to_comfy`, `from_comfy`.
"""

import math
from functools import cache

import torch
from einops import rearrange

BLOCK = 4
CHANNELS = 16
# Y, Cb, Cr of an RGB pixel (BT.601).
YCC = (
    (0.299, 0.587, 0.114),
    (-0.168736, -0.331264, 0.5),
    (0.5, -0.418688, -0.081312),
)
# (of Y, Cb, Cr; vertical frequency; horizontal frequency) of each latent channel.
KEPT = (
    *((0, u, total - u) for total in range(4) for u in range(total + 1)),
    *((colour, u, v) for colour in (1, 2) for u, v in ((0, 0), (0, 1), (1, 0))),
)
# Over 96 clips of video.py; all means but the first are about 0.
LUMA_MEAN = 1.448
SPREAD = (
    *(0.507, 0.070, 0.063, 0.018, 0.020, 0.015, 0.0057, 0.0076, 0.0075, 0.0047),
    *(0.232, 0.048, 0.048),
    *(0.251, 0.048, 0.049),
)


def encode(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels (b, f, 4 h, 4 w, 3) in 0..1 -> lab latents (b, 16, f, h, w)."""
    if pixels.ndim != 5 or pixels.shape[2] % BLOCK or pixels.shape[3] % BLOCK:
        raise ValueError(
            f"expected pixels (b, f, h, w, 3), h and w multiples of {BLOCK}, "
            f"got {tuple(pixels.shape)}"
        )
    into, _, mean = _basis(pixels.device)
    blocks = rearrange(pixels, "b f (h p) (w q) c -> b f h w (p q c)", p=BLOCK, q=BLOCK)
    return rearrange(blocks @ into - mean, "b f h w c -> b c f h w")


def decode(latents: torch.Tensor) -> torch.Tensor:
    """Lab latents (b, 16, f, h, w) -> pixels (b, f, 4 h, 4 w, 3) in 0..1."""
    _, back, mean = _basis(latents.device)
    blocks = (rearrange(latents.float(), "b c f h w -> b f h w c") + mean) @ back
    pixels = rearrange(blocks, "b f h w (p q c) -> b f (h p) (w q) c", p=BLOCK, q=BLOCK, c=3)
    return pixels.clamp(0, 1)


def to_comfy(latents: torch.Tensor) -> torch.Tensor:
    """Lab latents -> the "samples" of a LATENT in ComfyUI."""
    return _wan_format().process_out(latents)


def from_comfy(samples: torch.Tensor) -> torch.Tensor:
    """The "samples" of a LATENT -> lab latents."""
    return _wan_format().process_in(samples)


def _wan_format():
    from comfy.latent_formats import Wan21

    return Wan21()


@cache
def _basis(device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Matrices into latents (48, 16) and back (16, 48), and the mean that is subtracted, (16,)."""
    at = torch.arange(BLOCK, dtype=torch.float64)
    cosines = torch.cos(math.pi / BLOCK * at[:, None] * (at + 0.5)) * math.sqrt(2 / BLOCK)
    cosines[0] *= math.sqrt(0.5)
    spread, ycc = (torch.tensor(each, dtype=torch.float64) for each in (SPREAD, YCC))
    scale = (spread * spread.mean()).rsqrt()[:, None]

    def rows(colours):
        kept = [torch.einsum("p,q,c->pqc", cosines[u], cosines[v], colours[c]) for c, u, v in KEPT]
        return torch.stack([each.flatten() for each in kept])

    mean = torch.zeros(CHANNELS, dtype=torch.float64)
    mean[0] = LUMA_MEAN * scale[0]
    # Dropped frequencies count as 0, so a luma frequency without its chroma is grey.
    into, back = rows(ycc) * scale, rows(ycc.inverse().t()) / scale
    return into.t().float().to(device), back.float().to(device), mean.float().to(device)
