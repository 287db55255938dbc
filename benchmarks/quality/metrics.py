"""How similar a video is to a reference, and how consistent in itself.

Pixels are (b, f, h, w, 3) in 0..1. SSIM is torchmetrics'. No trained network was available, so a
random one with a fixed seed replaces the networks of LPIPS and VBench: it responds to structure at
four scales, but not to meaning. The figures are comparable with each other, but not with published
ones.
"""

from functools import cache

import torch
from einops import rearrange
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, conv2d, normalize, relu
from torchmetrics.functional.image import structural_similarity_index_measure

WIDTHS = (16, 32, 64, 64)  # channels at each scale, half the size of the one before
GRID = (4, 8)  # cells of a frame whose features are compared
FRAMES_AT_ONCE = 64


def psnr(video: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """PSNR of each frame in dB: (b, f). Identical frames have 100."""
    error = (video - reference).square().mean(dim=(2, 3, 4))
    return -10 * error.clamp(min=1e-10).log10()


def ssim(video: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """SSIM, the mean over each video's frames: (b,)."""
    images = (rearrange(x, "b f h w c -> (b f) c h w") for x in (video, reference))
    found = structural_similarity_index_measure(*images, data_range=1.0, reduction="none")
    return found.view(video.shape[:2]).mean(dim=1)


def lpips_like(video: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """LPIPS' distance with random instead of trained features: (b,). 0 for identical videos.

    Features of a position are scaled to length 1, or less where they are small against the
    reference's mean: a random network says nothing about flat regions, and LPIPS' scaling would
    turn that into noise. Squared differences are averaged over positions and frames and summed over
    the scales.
    """
    distance = torch.zeros(video.shape[:2], device=video.device)
    for one, other in zip(features(video), features(reference), strict=True):
        usual = other.square().sum(dim=2, keepdim=True).mean(dim=(1, 2, 3, 4), keepdim=True)
        one, other = (x / (x.square().sum(2, keepdim=True) + usual).sqrt() for x in (one, other))
        distance += (one - other).square().sum(dim=2).mean(dim=(2, 3))
    return distance.mean(dim=1)


def consistency(video: torch.Tensor) -> torch.Tensor:
    """Similarity of a video's frames, like VBench's subject consistency: (b,), 1 at most.

    The mean over frames of the cosine to the frame before and the cosine to the first one.
    """
    coarse = [adaptive_avg_pool2d(x.flatten(0, 1), GRID) for x in features(video)]
    frames = torch.cat([x.flatten(1) for x in coarse], dim=1).view(*video.shape[:2], -1)
    frames = normalize(frames, dim=2)
    before = (frames[:, 1:] * frames[:, :-1]).sum(dim=2)
    first = (frames[:, 1:] * frames[:, :1]).sum(dim=2)
    return ((before + first) / 2).mean(dim=1)


def features(video: torch.Tensor) -> list[torch.Tensor]:
    """A random network's features of each frame, (b, f, channels, h, w), one tensor a scale."""
    images = rearrange(2 * video - 1, "b f h w c -> (b f) c h w").float()
    parts = []
    for x in images.split(FRAMES_AT_ONCE):
        scales = []
        for first, second in _weights(video.device):
            x = relu(conv2d(relu(conv2d(x, first, padding=1)), second, padding=1))
            scales.append(x)
            x = avg_pool2d(x, 2)
        parts.append(scales)
    whole = (torch.cat(scale) for scale in zip(*parts, strict=True))
    return [x.view(*video.shape[:2], *x.shape[1:]) for x in whole]


@cache
def _weights(device: torch.device) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Two convolutions a scale, each scaled to preserve the size of its input.

    Filters sum to 0, so they respond to differences and not to brightness.
    """
    random = torch.Generator().manual_seed(0)
    layers, channels = [], 3
    for width in WIDTHS:
        pair = []
        for inputs in (channels, width):
            weight = torch.randn(width, inputs, 3, 3, generator=random)
            weight -= weight.mean(dim=(2, 3), keepdim=True)
            pair.append((weight * (2 / (9 * inputs)) ** 0.5).to(device))
        layers.append(tuple(pair))
        channels = width
    return layers
