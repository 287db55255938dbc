"""What do step caches, radial attention and both together cost, and what do they save? Same seeds.

    python benchmarks/quality/caches.py --comfyui FOLDER

Samples the lab's model dense, then in other ways, one video at a time, since a cache decides for a
whole batch. Writes results/quality-caches-GPU.json after each way:

fewer steps   dense with fewer steps: what a cache has to beat
EasyCache     ComfyUI's node, with thresholds at which it skips about a quarter, half and two thirds
              of the steps in other videos
TeaCache      its rule, see cache_rules.py, with thresholds chosen in the same way
radial        decay 0.2, the first quarter of the steps dense, no dense blocks, in proportion: see
              masks.py
radial + ...  the cache with the threshold that it has alone

For each way: likeness to the dense video of the same seed (measured, see metrics.py), and the work
of a real model that skips the same steps and keeps as much of the attention as the lab (computed,
see work.py). speedup is dense work over work: of FLOP, not of time.
"""

import contextlib
import logging
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # `python -P` does not do this

import codec
import masks
import model as lab_model
import torch
from cache_rules import computed_steps, easycache, easycache_node, fitted, teacache
from ground import MEASURED_SEEDS, OTHER_SEEDS, Ground, likeness
from lab import in_time, parser, record, start_comfyui
from masked import Attention, by_map, masked
from work import attention_shares, speedup

from radial_core import Schedule

SEEDS, SECONDS = 10, 110
TINY = (replace(lab_model.TINY, frames=5, width=32), 2, 12)  # size, seeds, steps
DECAY, SINK_FRAMES = 0.2, 1  # the authors'
SKIPPED = (0.25, 0.5, 0.67)  # shares of the steps
AS_RADIAL = 0.36  # with so much skipped, Wan is about as fast as radial without a cache
FITTING_SEEDS = 2
FEWER = "fewer steps"
LEAST, MOST, HALVINGS = 1e-3, 3.0, 8  # thresholds
# The videos by which a threshold is chosen. TeaCache skips the same steps of all videos.
CACHES = {"EasyCache": 2, "TeaCache": 1}
STEPS_RUN = ("dense_steps", "sparse_steps")


@dataclass(frozen=True)
class Way:
    """A way to sample. skipped: the share of the steps that are not run, more or less."""

    kind: str  # FEWER, one of CACHES, or "" for all steps
    skipped: float = 0
    radial: bool = False

    def __str__(self):
        share = f"{self.skipped:.0%}"
        alone = f"{share} fewer steps" if self.kind == FEWER else f"{self.kind}, {share} skipped"
        return " + ".join(["radial"] * self.radial + [alone] * bool(self.kind))


@dataclass(frozen=True)
class Run:
    """A video (f, h, w, 3), and how many of its steps ran dense and sparse."""

    video: torch.Tensor
    dense_steps: int
    sparse_steps: int


class Lab:
    """The model, its dense videos, and what the ways share."""

    def __init__(self, ground: Ground):
        self.ground, self.skips, self.sparse_calls = ground, {}, 0
        self.schedule = Schedule(ground.steps // 4)
        self.map = masks.radial_in_proportion(ground.layout, DECAY, SINK_FRAMES)
        # First of all: in the first run after a model is loaded, EasyCache takes its start and end
        # from the noise levels that the model had before its shift was set (ComfyUI 0.30.0).
        self.reference = torch.stack([self.run(ground.model, seed).video for seed in self.seeds])

    @property
    def density(self) -> float:
        return self.map.float().mean().item()

    @property
    def seeds(self) -> range:
        return range(MEASURED_SEEDS, MEASURED_SEEDS + self.ground.seeds)

    @cached_property
    def polynomial(self) -> list[float]:
        """TeaCache's, fitted to dense videos of other seeds."""
        model, cache = teacache(self.ground.model, threshold=0)
        for seed in range(OTHER_SEEDS, OTHER_SEEDS + FITTING_SEEDS):
            self.run(model, seed)
        return fitted(cache.changes)

    @cached_property
    def attention(self) -> Attention:
        sparse = by_map(self.map, masks.SMALL_BLOCK, self.ground.device)

        def attention(*given):
            self.sparse_calls += 1
            return sparse(*given)

        return attention

    def model(self, way: Way):
        model = self.ground.model
        if way.radial:
            model = masked(model, self.attention, self.ground.layout.tokens, self.schedule)
        if way.kind in CACHES:
            model = self.with_cache(model, way.kind, self.threshold(way.kind, way.skipped))
        return model

    def with_cache(self, model, kind: str, threshold: float):
        if kind == "EasyCache":
            return easycache(model, threshold)
        return teacache(model, threshold, self.polynomial)[0]

    def threshold(self, kind: str, share: float) -> float:
        """The one at which a cache alone skips about this share of the steps."""
        skipped = lambda threshold: self.skipped(kind, threshold)  # noqa: E731
        return nearest(skipped, share * self.ground.steps)

    def skipped(self, kind: str, threshold: float) -> float:
        """Steps of a dense video that a cache skips, the mean over other seeds."""
        if (kind, threshold) not in self.skips:
            model = self.with_cache(self.ground.model, kind, threshold)
            seeds = range(OTHER_SEEDS, OTHER_SEEDS + CACHES[kind])
            computed = [self.run(model, seed).dense_steps for seed in seeds]
            self.skips[kind, threshold] = self.ground.steps - sum(computed) / len(computed)
        return self.skips[kind, threshold]

    def run(self, model, seed: int, steps: int | None = None, schedule: Schedule | None = None):
        """schedule: of the sparse attention; None if there is none."""
        ground, steps = self.ground, steps or self.ground.steps
        with computed_steps(ground.model) as computed:
            latents = lab_model.sample(model, [seed], ground.size.latent, steps)
        first = steps if schedule is None else schedule.dense_steps
        sparse = sum(step >= first for step in computed)
        video = codec.decode(latents.to(ground.device))[0]
        return Run(video, len(computed) - sparse, sparse)

    def measure(self, way: Way) -> dict:
        """Sample in this way, and compare with the dense videos."""
        steps = self.ground.steps
        if way.kind == FEWER:
            steps = round((1 - way.skipped) * steps)
        model, schedule = self.model(way), self.schedule if way.radial else None
        self.sparse_calls = 0
        runs = [self.run(model, seed, steps, schedule) for seed in self.seeds]
        dense, sparse = ([getattr(run, name) for run in runs] for name in STEPS_RUN)
        if self.sparse_calls != sum(sparse) * self.ground.layers:
            raise RuntimeError(f"{way}: {self.sparse_calls} sparse calls in {sum(sparse)} steps")
        cached = way.kind in CACHES
        return {
            "name": str(way),
            **asdict(way),
            **({"threshold": self.threshold(way.kind, way.skipped)} if cached else {}),
            "dense_steps_of_seeds": dense,
            "sparse_steps_of_seeds": sparse,
            "steps_run": round((sum(dense) + sum(sparse)) / len(runs), 2),
            "speedup": {
                video: round(self.speedup(runs, share), 3)
                for video, share in attention_shares().items()
            },
            **likeness(torch.stack([run.video for run in runs]), self.reference),
        }

    def speedup(self, runs: list[Run], attention: float) -> float:
        """Of the mean work, against the dense videos."""
        steps = [(run.dense_steps, run.sparse_steps) for run in runs]
        return speedup(steps, self.ground.steps, attention, self.density)


def nearest(count: Callable[[float], float], wanted: float) -> float:
    """The threshold whose count comes nearest, by halving. count grows with the threshold."""
    low, high, best = LEAST, MOST, (math.inf, MOST)
    for _ in range(HALVINGS):
        middle = float(f"{math.sqrt(low * high):.3g}")
        found = count(middle)
        best = min(best, (abs(found - wanted), middle))
        low, high = (middle, high) if found < wanted else (low, middle)
    return best[1]


def ways() -> list[Way]:
    """The most important first: time may be up before the others' turn."""
    found = [Way(FEWER, share) for share in (*SKIPPED, AS_RADIAL)]
    found += [Way("EasyCache", share) for share in (*SKIPPED, AS_RADIAL)]
    found.append(Way("", radial=True))
    found += [Way("EasyCache", share, radial=True) for share in SKIPPED]
    found += [Way("TeaCache", share) for share in SKIPPED]
    return found + [Way("TeaCache", share, radial=True) for share in SKIPPED]


def line(case: dict) -> str:
    times = "  ".join(f"{name} {x:.2f}x" for name, x in case["speedup"].items())
    error = case["psnr_std"] / len(case["psnr_of_seeds"]) ** 0.5
    return (
        f"{case['name']:34s} {case['steps_run']:5.1f} steps  {times}  "
        f"psnr {case['psnr']:.2f} ± {error:.2f}  ssim {case['ssim']:.4f}  {case['seconds']:.1f} s"
    )


def main(arguments: list[str] | None = None):
    options = parser(__doc__, lab_model.CHECKPOINT, SECONDS, "ways")
    given = options.parse_args(arguments)
    end = time.perf_counter() + given.seconds
    device, version = start_comfyui(given.comfyui.resolve())
    easycache_node()  # fails now, not after minutes, where comfy_extras is missing
    sizes = TINY if given.tiny else (lab_model.LAB, SEEDS, lab_model.STEPS)
    ground = Ground(lab_model.load(given.checkpoint), *sizes, device)
    lab, cases = Lab(ground), []
    machine = "tiny" if given.tiny else record.gpu_name()
    about = {"comfyui": version, "size": asdict(ground.size), "steps": ground.steps}
    about |= {"seeds": ground.seeds, "density": round(lab.density, 4)}
    about |= {"dense_steps": lab.schedule.dense_steps, "decay": DECAY}
    about |= {"attention_share": {name: round(x, 4) for name, x in attention_shares().items()}}
    for way in in_time(ways(), end, "ways"):
        began = time.perf_counter()
        case = lab.measure(way)
        cases.append(case | {"seconds": round(time.perf_counter() - began, 1)})
        print(line(cases[-1]), flush=True)
        with contextlib.redirect_stdout(None):
            record.save(f"quality-caches-{machine}", cases, **about)
    if cases:
        print(f"Written: results/quality-caches-{machine}.json")


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="  %(message)s")
    main()
