"""How like a reference a video is, and how steady in itself. Pixels are (b, f, h, w, 3) in 0..1.

PSNR and SSIM are torchmetrics'. No trained network can be had here, so what LPIPS and VBench ask
of one is asked of a random one, whose weights a seed fixes: deep enough to see structure at four
scales, and blind to meaning. So the figures are comparable with one another, and with none of
those that are published.
"""

from functools import cache

import torch
from einops import rearrange
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, conv2d, normalize, relu
from torchmetrics.functional.image import structural_similarity_index_measure

WIDTHS = (16, 32, 64, 64)  # channels at each scale, half the size of the one before
GRID = (4, 8)  # places of a frame whose features tell it from another
FRAMES_AT_ONCE = 64


def psnr(video: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Of each frame, in dB: (b, f). Two frames that are the same have 100."""
    error = (video - reference).square().mean(dim=(2, 3, 4))
    return -10 * error.clamp(min=1e-10).log10()


def ssim(video: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """The mean over each video's frames: (b,)."""
    images = (rearrange(x, "b f h w c -> (b f) c h w") for x in (video, reference))
    found = structural_similarity_index_measure(*images, data_range=1.0, reduction="none")
    return found.view(video.shape[:2]).mean(dim=1)


def lpips_like(video: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Distance of random features, made as LPIPS makes it of trained ones: (b,). 0 is the same.

    Features of a place are scaled to length 1, or less where they are small beside the reference's
    mean: a random network says nothing of flat places, and LPIPS' scale would make noise of it. The
    squared differences are averaged over places and frames and summed over the scales.
    """
    apart = torch.zeros(video.shape[:2], device=video.device)
    for one, other in zip(features(video), features(reference), strict=True):
        usual = other.square().sum(dim=2, keepdim=True).mean(dim=(1, 2, 3, 4), keepdim=True)
        one, other = (x / (x.square().sum(2, keepdim=True) + usual).sqrt() for x in (one, other))
        apart += (one - other).square().sum(dim=2).mean(dim=(2, 3))
    return apart.mean(dim=1)


def consistency(video: torch.Tensor) -> torch.Tensor:
    """Likeness of a video's frames, as VBench takes its subject consistency: (b,), 1 at most.

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
    for some in images.split(FRAMES_AT_ONCE):
        found = []
        for first, second in _weights(video.device):
            some = relu(conv2d(relu(conv2d(some, first, padding=1)), second, padding=1))
            found.append(some)
            some = avg_pool2d(some, 2)
        parts.append(found)
    whole = (torch.cat(scale) for scale in zip(*parts, strict=True))
    return [x.view(*video.shape[:2], *x.shape[1:]) for x in whole]


@cache
def _weights(device: torch.device) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Two convolutions a scale, each scaled to keep the size of what it is given.

    A filter sums to nothing: it sees differences, not brightness.
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
