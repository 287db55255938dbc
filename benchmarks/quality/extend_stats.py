"""Do long samples still look like real clips? Compared as sets of frames: a seed has no true video.

    frechet      distance of the frames' features from those of real clips (as in FID, but with
                 metrics.py's random features, in their main directions). A few clips are a rough
                 sample; the distance of as many other real clips shows how rough, see `floor`
    motion       change from frame to frame, relative to real clips
    sharpness    change from pixel to pixel, relative to real clips
    consistency  of metrics.py, and that of real clips

All but the last also by quarters of the video's length, since a model that drifts does so late.
Pixels are (b, f, h, w, 3) in 0..1.
"""

from functools import cached_property

import metrics
import torch
import video

REAL_SEED = (1 << 40) + 1_000_000  # used neither for training nor for validation
DIRECTIONS = 16
QUARTERS = 4
KNOWN = 96  # the least number of real clips that samples are compared with


class Real:
    """Real clips of one length, to compare samples with."""

    def __init__(self, pixels: tuple[int, int, int], count: int, device: torch.device):
        """pixels: frames, height, width. count: of samples, and of `floor`'s real clips."""
        self.pixels, self.count, self.device = pixels, count, device

    def clips(self, number: int) -> torch.Tensor:
        return video.clips(REAL_SEED + number, self.count, *self.pixels, self.device)

    @cached_property
    def _known(self) -> dict:
        many = (self.clips(2 + i) for i in range(-(-KNOWN // self.count)))
        parts = [(looks(x), motion(x), sharpness(x), metrics.consistency(x)) for x in many]
        seen, moved, sharp, steady = (torch.cat(each) for each in zip(*parts, strict=True))
        flat = seen.flatten(0, 1)
        mean = flat.mean(dim=0)
        _, spread, directions = torch.linalg.svd(flat - mean, full_matrices=False)
        keep = min(DIRECTIONS, int((spread > 1e-6 * spread[0]).sum()))
        scale = directions[:keep].T / (spread[:keep] / len(flat) ** 0.5)
        return {
            "mean": mean,
            "scale": scale,
            "looks": self._scaled(seen, mean, scale),
            "motion": quarters(moved),
            "sharpness": quarters(sharp),
            "consistency": steady.mean().item(),
        }

    @staticmethod
    def _scaled(seen, mean, scale):
        return (seen - mean) @ scale

    @cached_property
    def floor(self) -> dict:
        """The figures of other real clips."""
        return self.compare(self.clips(1))

    def compare(self, clips: torch.Tensor) -> dict:
        known = self._known
        seen = self._scaled(looks(clips), known["mean"], known["scale"])
        found = {"frechet": frechet(seen.flatten(0, 1), known["looks"].flatten(0, 1))}
        found["frechet_quarters"] = [
            frechet(part.flatten(0, 1), known["looks"].flatten(0, 1))
            for part in seen.chunk(QUARTERS, dim=1)
        ]
        for name, of in (("motion", motion), ("sharpness", sharpness)):
            parts = quarters(of(clips))
            found[name] = (parts.mean() / known[name].mean()).item()
            found[f"{name}_quarters"] = (parts / known[name].mean()).tolist()
        found["consistency"] = metrics.consistency(clips).mean().item()
        found["consistency_real"] = known["consistency"]
        return {
            name: [round(x, 4) for x in each] if isinstance(each, list) else round(each, 4)
            for name, each in found.items()
        }


def looks(clips: torch.Tensor) -> torch.Tensor:
    """The look of each frame in numbers: mean and spread of each feature over its positions.

    (b, f, n), float64. One clip at a time: the features of a long one take gigabytes.
    """
    found = []
    for clip in clips.split(1):
        parts = []
        for scale in metrics.features(clip):
            parts += [scale.mean(dim=(3, 4)), scale.std(dim=(3, 4))]
        found.append(torch.cat(parts, dim=2))
    return torch.cat(found).double()


def frechet(one: torch.Tensor, other: torch.Tensor) -> float:
    """Squared Fréchet distance of two sets (n, d) taken as Gaussians (Heusel et al. 2017)."""
    apart = (one.mean(dim=0) - other.mean(dim=0)).square().sum()
    a, b = one.T.cov(), other.T.cov()
    # tr sqrt(a b): a b is similar to sqrt(a) b sqrt(a), which is symmetric.
    values, vectors = torch.linalg.eigh(a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    both = torch.linalg.eigvalsh(root @ b @ root).clamp(min=0).sqrt().sum()
    return (apart + a.trace() + b.trace() - 2 * both).item()


def motion(clips: torch.Tensor) -> torch.Tensor:
    """Mean change from each frame to the next: (b, f - 1)."""
    return (clips[:, 1:] - clips[:, :-1]).abs().mean(dim=(2, 3, 4))


def sharpness(clips: torch.Tensor) -> torch.Tensor:
    """Mean change from each pixel to the next: (b, f)."""
    return (clips[:, :, :, 1:] - clips[:, :, :, :-1]).abs().mean(dim=(2, 3, 4))


def quarters(of_frames: torch.Tensor) -> torch.Tensor:
    """The mean of each quarter of the length: (4,)."""
    return torch.stack([part.mean() for part in of_frames.chunk(QUARTERS, dim=1)])
