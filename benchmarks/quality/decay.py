"""How the trained model's attention falls off in time and space, as the paper found for Wan.

    python benchmarks/quality/decay.py --comfyui FOLDER [--checkpoint PATH]

Held-out clips at several noise levels; softmax(q k^T) of every self-attention in float32, averaged
over heads, queries, clips and levels. train.py writes the same figures into its results.
"""

import argparse
import math
from pathlib import Path

import flow
import model
import torch
from einops import rearrange
from lab import record, start_comfyui

SIGMAS = (0.9, 0.6, 0.3)
CLIPS = 2
REACH = 16  # tokens, the largest distance in a frame that is measured


def measure(patcher, clean: torch.Tensor, noise: torch.Tensor) -> dict:
    """Mean attention probability by distance, and exp(-a d + b) fitted to it.

    patcher: a MODEL; clean, noise: lab latents (b, 16, f, h, w), of which CLIPS are used. Returns
    {"all": the mean of all layers, "layers": [each]}, each with three kinds of distance:

        frames      tokens d frames apart, at any position
        same_place  tokens at the same position, d frames apart
        places      tokens of the same frame, d tokens apart (rounded)
    """
    sums: dict[int, Sums] = {}

    def override(func, q, k, v, heads, **kwargs):
        if k.shape[1] > 1:
            options = kwargs["transformer_options"]
            grid = tuple(int(n) for n in options["grid_sizes"])
            found = sums.setdefault(options["block_index"], Sums(grid, q.device))
            found.add(*(rearrange(x, "b s (h d) -> b h s d", h=heads) for x in (q, k)))
        return func(q, k, v, heads, **kwargs)

    watched = patcher.clone()
    watched.model_options["transformer_options"]["optimized_attention_override"] = override
    for sigma in SIGMAS:
        model.loss(watched, clean[:CLIPS], noise[:CLIPS], sigma)
    layers = [sums[index].means() for index in sorted(sums)]
    every = {kind: torch.stack([each[kind] for each in layers]).mean(0) for kind in layers[0]}
    return {"all": described(every), "layers": [described(each) for each in layers]}


class Sums:
    """Attention probabilities of one layer, summed by distance. grid: frames, rows, columns."""

    def __init__(self, grid: tuple[int, int, int], device: torch.device):
        self.frames, rows, columns = grid
        row, column = (torch.arange(n, device=device) for n in (rows, columns))
        y, x = (each.flatten() for each in torch.meshgrid(row, column, indexing="ij"))
        away = (y[:, None] - y).square() + (x[:, None] - x).square()
        self.away = away.sqrt().round().long().clamp(max=REACH + 1).flatten()
        far = {"frames": self.frames, "same_place": self.frames, "places": REACH + 2}
        self.total = {kind: torch.zeros(n, device=device).double() for kind, n in far.items()}
        self.count = {kind: x.clone() for kind, x in self.total.items()}

    def add(self, q: torch.Tensor, k: torch.Tensor):
        """q, k: (b, h, s, d). One frame of queries at a time, to fit into memory."""
        time = torch.arange(self.frames, device=q.device)
        for each_q, each_k in zip(q.float(), k.float(), strict=True):
            for frame, queries in enumerate(each_q.chunk(self.frames, dim=1)):
                scores = queries @ each_k.mT * queries.shape[-1] ** -0.5
                weights = scores.softmax(-1).mean(0).unflatten(-1, (self.frames, -1))  # (p, f, p)
                distance = (time - frame).abs()
                self._put("frames", distance, weights.mean(dim=(0, 2)))
                self._put("same_place", distance, weights.diagonal(dim1=0, dim2=2).mean(-1))
                self._put("places", self.away, weights[:, frame].flatten())

    def _put(self, kind: str, distance: torch.Tensor, weights: torch.Tensor):
        weights = weights.double()
        self.total[kind].index_add_(0, distance, weights)
        self.count[kind].index_add_(0, distance, torch.ones_like(weights))

    def means(self) -> dict[str, torch.Tensor]:
        means = {kind: (x / self.count[kind]).cpu() for kind, x in self.total.items()}
        places = means["places"][: REACH + 1]
        return means | {"places": places[places.isfinite()]}


def described(means: dict[str, torch.Tensor]) -> dict:
    return {
        kind: {"mean": [float(f"{x:.4g}") for x in values], "fit": fit(values)}
        for kind, values in means.items()
    }


def fit(values: torch.Tensor) -> dict[str, float]:
    """Fit exp(-a d + b) to values at d = 0, 1, ...: a, b, and the share of variance explained.

    Least squares on the values themselves, over a grid of a; for each a the best b is known.
    """
    decay = torch.linspace(0, 5, 5001, dtype=torch.float64)[:, None]
    curves = (-decay * torch.arange(len(values))).exp()
    scale = (curves * values).sum(1, keepdim=True) / curves.square().sum(1, keepdim=True)
    error = (scale * curves - values).square().sum(1)
    best = int(error.argmin())
    spread = (values - values.mean()).square().sum()
    return {
        "a": round(float(decay[best]), 3),
        "b": round(math.log(float(scale[best])), 3),
        "r2": round(float(1 - error[best] / spread), 4),
    }


def show(found: dict):
    """Print how attention falls off in each layer and on average."""
    print("layer  kind          a      r2      d = 0, 1, 2, 4, 8 against d = 0")
    rows = [*enumerate(found["layers"]), ("all", found["all"])]
    for name, kinds in rows:
        for kind, each in kinds.items():
            mean = each["mean"]
            fall = [f"{mean[d] / mean[0]:.3f}" for d in (0, 1, 2, 4, 8) if d < len(mean)]
            line = f"{name!s:5}  {kind:11} {each['fit']['a']:5.2f}  {each['fit']['r2']:6.3f}"
            print(f"{line}  {'  '.join(fall)}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--comfyui", type=Path, required=True, help="ComfyUI's folder")
    parser.add_argument("--checkpoint", type=Path, default=model.CHECKPOINT)
    parser.add_argument("--tiny", action="store_true", help="the checkpoint of train.py --tiny")
    given = parser.parse_args()
    device, version = start_comfyui(given.comfyui.resolve())
    size = model.TINY if given.tiny else model.LAB
    held_out = flow.validation(size, count=CLIPS)
    found = measure(model.load(given.checkpoint), held_out.clean, held_out.noise)
    show(found)
    machine = "tiny" if given.tiny else record.gpu_name()
    record.save(f"quality-decay-{machine}", found["layers"], comfyui=version, all=found["all"])


if __name__ == "__main__":
    main()
