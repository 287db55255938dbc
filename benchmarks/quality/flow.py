"""Flow matching on the lab's videos: the loss that train.py minimizes, and its validation.

A clip and noise are mixed, noisy = sigma noise + (1 - sigma) clean, and the network predicts the
velocity noise - clean.
"""

from contextlib import contextmanager
from dataclasses import dataclass

import codec
import model
import torch
import video
from einops import rearrange
from torch.nn.functional import scaled_dot_product_attention

HELD_OUT = 1 << 40  # seeds from here on are not trained on


@contextmanager
def training():
    """Makes ComfyUI use its plain rope: the fused one has no backward."""
    import comfy.model_management

    comfy.model_management.in_training = True
    try:
        yield
    finally:
        comfy.model_management.in_training = False


def attention(func, q, k, v, heads, **kwargs):
    """ComfyUI's attention hook for training: q, k, v (b, s, h d)."""
    if k.shape[1] == 1:
        return v.expand_as(q)  # the empty prompt: its one token gets all the attention
    q, k, v = (rearrange(x, "b s (h d) -> b h s d", h=heads) for x in (q, k, v))
    return rearrange(scaled_dot_product_attention(q, k, v), "b h s d -> b s (h d)")


def velocity(net: torch.nn.Module, noisy: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """A WanModel's output for latents (b, 16, f, h, w) and sigma (b,); in bfloat16 on a GPU."""
    prompt = noisy.new_zeros(len(noisy), 1, model.TEXT_DIM)
    options = {"optimized_attention_override": attention}
    with torch.autocast("cuda", torch.bfloat16, enabled=noisy.is_cuda):
        return net(noisy, 1000 * sigma, prompt, transformer_options=options).float()


def losses(
    net: torch.nn.Module, clean: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor
) -> torch.Tensor:
    """Mean squared error of the velocity: (b,)."""
    level = sigma[:, None, None, None, None]
    noisy = level * noise + (1 - level) * clean
    error = velocity(net, noisy, sigma) - (noise - clean)
    return error.square().mean(dim=(1, 2, 3, 4))


def sigmas(t: torch.Tensor) -> torch.Tensor:
    """The schedule of ComfyUI's model_sampling with this shift."""
    return model.SHIFT * t / (1 + (model.SHIFT - 1) * t)


def batch(size: model.Size, count: int, seed: int, random: torch.Generator):
    """New clips, noise, and sigmas spread evenly over the schedule: each (count, ...)."""
    device = random.device
    clean = codec.encode(video.clips(seed, count, *size.pixels, device))
    noise = torch.randn(clean.shape, device=device, generator=random)
    spread = torch.arange(count, device=device)
    t = (spread + torch.rand(count, device=device, generator=random)) / count
    return clean, noise, sigmas(t)


@dataclass(frozen=True)
class Validation:
    """Held-out clips, at the same few sigmas and with the same noise in every call."""

    clean: torch.Tensor
    noise: torch.Tensor
    levels: tuple[float, ...]

    @torch.no_grad()
    def __call__(self, net: torch.nn.Module) -> list[float]:
        """Loss at each level."""

        def at(level: float) -> float:
            total = 0.0
            for clean, noise in zip(self.clean.split(4), self.noise.split(4), strict=True):
                sigma = torch.full((len(clean),), level, device=clean.device)
                total = total + losses(net, clean, noise, sigma).sum()
            return float(total) / len(self.clean)

        return [at(level) for level in self.levels]

    def linear(self) -> list[float]:
        """The baseline: loss of the best linear guess from each latent value by itself."""

        def at(s: float) -> float:
            spread = self.clean.var(dim=(0, 2, 3, 4))  # noise has 1
            noisy, both = s**2 + (1 - s) ** 2 * spread, s - (1 - s) * spread
            return float((1 + spread - both.square() / noisy).mean())

        return [at(level) for level in self.levels]

    def through_comfy(self, patcher) -> list[float]:
        """The same for a MODEL, through ComfyUI's sampler."""
        pairs = list(zip(self.clean.split(4), self.noise.split(4), strict=True))

        def at(level: float) -> float:
            found = [model.loss(patcher, clean, noise, level) for clean, noise in pairs]
            return float(torch.cat(found).mean())

        return [at(level) for level in self.levels]


def validation(size: model.Size, count: int = 8, levels: int = 4, device="cpu") -> Validation:
    """Levels are the centres of equal parts of the schedule; the loss is the mean over them."""
    clean = codec.encode(video.clips(HELD_OUT, count, *size.pixels, device))
    noise = model.noise(range(HELD_OUT, HELD_OUT + count), size.latent).to(device)
    t = (torch.arange(levels) + 0.5) / levels
    return Validation(clean, noise, tuple(sigmas(t).tolist()))
