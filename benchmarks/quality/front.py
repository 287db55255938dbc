"""Likeness to the dense video against real time: the ways to sample, on one front.

    python benchmarks/quality/front.py --comfyui FOLDER --checkpoint PATH --training 1

Samples the lab's videos dense, then in the ways of front_ways.py, at real proportions (see
masks.py), and writes results/quality-front-GPU.json after each. For each way:

seconds_estimate  of a run of Wan 2.1 14B at 69 frames, 768p, that spends the same shares of its
                  steps in the same way; computed from measured passes, see real_time.py
attention_share   what self-attention and choosing lists take of it, as a share of what they take
                  with the authors' settings
psnr ...          likeness to the dense videos of the same seeds, see metrics.py
diff, diff_se     PSNR against the authors' settings, paired, with its standard error
flicker, lost_objects
                  see motion.py; the latter in videos that start from clips with noise on them, a
                  quarter of the steps in

`runs` has the figures of each training of the model (`train.py --seed`), `cases` their means. The
psnr of a case is that of the authors' settings in all trainings plus `diff`, so that ways compare
that were measured in different trainings. --set chooses the ways. --frames are those of the videos;
train.py has the same option. What a file has of other trainings, sizes and ways stays.
"""

import contextlib
import json
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from statistics import mean, stdev

sys.path.insert(0, str(Path(__file__).parent))  # `python -P` does not do this

import codec
import front_sets
import model as lab_model
import motion
import real_time
import torch
from cache_rules import easycache
from front_attention import attention_of, layer_shares, plan_of
from front_ways import ADAPTIVE, AUTHORS, DENSE, QUARTER, Way
from ground import MEASURED_SEEDS, Ground, likeness
from lab import in_time, parser, record, start_comfyui
from other_videos import mass_of_others
from stretches import Run, round_down, stretched

from radial_core import VideoLayout

SEEDS, CLIPS, SECONDS = 8, 4, 110
TINY = (replace(lab_model.TINY, frames=5, width=32), 2, 10)  # size, seeds, steps
RUN = ("training", "grid", "method")  # what tells a run from others
OF_CASES = ("seconds_estimate", "attention_share", "psnr_worst_frame", "psnr_edges")
OF_CASES += ("lpips_like", "flicker", "lost_objects")


class Lab:
    """The model, its dense videos, and clips whose objects are known."""

    def __init__(self, ground: Ground):
        self.ground, self.psnr_of_authors, self.measured = ground, None, {}
        self.clips = motion.held_out(ground.size, CLIPS, ground.device)

    @cached_property
    def shares(self) -> list[float]:
        return layer_shares(plan_of(AUTHORS, self.ground), mass_of_others(self.ground))

    def steps(self, way: Way) -> int:
        return round(way.steps * self.ground.steps)

    def patched(self, way: Way) -> tuple[object, Run]:
        """A MODEL for one run of the sampler, and what will be known of that run."""
        import comfy.samplers

        sampling = self.ground.model.get_model_object("model_sampling")
        sigmas = comfy.samplers.calculate_sigmas(sampling, "simple", self.steps(way)).tolist()
        run, shares = Run(sigmas, way.stretches), self.shares if way.depth else ()
        model = stretched(self.ground.model, run, **attention_of(way, self.ground, shares))
        return (model if way.cache is None else easycache(model, way.cache)), run

    def sample(self, way: Way) -> tuple[torch.Tensor, list[Run]]:
        """Pixels (seeds, f, h, w, 3), and the runs."""
        every = range(MEASURED_SEEDS, MEASURED_SEEDS + self.ground.seeds)
        latents, runs = [], []
        for part in parts(way, self.ground.seeds):
            model, run = self.patched(way)
            size, steps = self.ground.size.latent, self.steps(way)
            latents.append(lab_model.sample(model, every[part], size, steps))
            runs.append(run)
        return codec.decode(torch.cat(latents).to(self.ground.device)), runs

    def lost_objects(self, way: Way) -> float:
        """The mean over the clips."""
        steps, videos = self.steps(way), []
        first = round_down(QUARTER * steps)
        for part in parts(way, CLIPS):
            model, _ = self.patched(way)
            videos.append(motion.from_clips(model, self.clips, steps, first, part))
        return motion.lost_objects(torch.cat(videos), self.clips).mean().item()

    def measure(self, way: Way) -> dict:
        """Sample in this way, and compare with the dense videos and with the clips."""
        alike = replace(way, comfyui_dense=False)  # another time, the same video
        if alike not in self.measured:
            self.measured[alike] = self.compare(way)
        runs, found = self.measured[alike]
        if way == AUTHORS:
            self.psnr_of_authors = found["psnr_of_seeds"]
        pairs = zip(found["psnr_of_seeds"], self.psnr_of_authors, strict=True)
        diffs = [round(one - other, 3) for one, other in pairs]
        return self.cost(way, runs) | found | {"diffs": diffs}

    def compare(self, way: Way) -> tuple[list[Run], dict]:
        video, runs = self.sample(way)
        return runs, {
            **likeness(video, self.ground.reference),
            "flicker": round(motion.flicker(video, self.ground.reference).mean().item(), 4),
            "lost_objects": round(self.lost_objects(way), 4),
        }

    def cost(self, way: Way, runs: Sequence[Run]) -> dict:
        every = [self.cost_of_one(way, run) for run in runs]
        return {name: round(mean(each[name] for each in every), 4) for name in every[0]}

    def cost_of_one(self, way: Way, run: Run) -> dict:
        blocks = plan_of(way, self.ground).density / plan_of(AUTHORS, self.ground).density
        dense_layers = way.dense_blocks / self.ground.layers
        steps = [
            (None if stretch.budget is None else stretch.budget * blocks, dense_layers)
            for stretch in run.steps.values()
        ]
        looks = len(run.looks) if way.lists == ADAPTIVE else 0
        found = real_time.cost(way, steps, self.ground.steps, looks)
        return found | {"steps_run": len(steps), "looks": looks}


def parts(way: Way, videos: int) -> list[slice]:
    """Those that run together: all, or one where a cache decides when to skip."""
    return [slice(videos)] if way.cache is None else [slice(n, n + 1) for n in range(videos)]


def grid(layout: VideoLayout) -> str:
    """Tokens of the videos: frames, rows and columns."""
    return f"{layout.frames} x {layout.height} x {layout.width}"


def means(runs: list[dict]) -> list[dict]:
    """A case for each grid and method: the means over the trainings that have it."""
    groups: dict[tuple, list[dict]] = {}
    for run in runs:
        groups.setdefault((run["grid"], run["method"]), []).append(run)
    return [_case(group, groups[group[0]["grid"], AUTHORS.name]) for group in groups.values()]


def _case(group: list[dict], authors: list[dict]) -> dict:
    """authors: the runs with their settings, of all trainings with this grid."""
    diffs = [diff for run in group for diff in run["diffs"]]
    return {
        "grid": group[0]["grid"],
        "method": group[0]["method"],
        "preset": next((run["preset"] for run in group if run["preset"]), None),
        "psnr": round(mean(run["psnr"] for run in authors) + mean(diffs), 3),
        "diff": round(mean(diffs), 3),
        "diff_se": round(stdev(diffs) / len(diffs) ** 0.5, 3),
        "diff_of_trainings": {str(run["training"]): round(mean(run["diffs"]), 3) for run in group},
        **{name: _mean_of(name, group) for name in OF_CASES},
    }


def _mean_of(name: str, group: list[dict]) -> float | None:
    """None if no run has this figure."""
    values = [run[name] for run in group if run[name] is not None]
    return round(mean(values), 4) if values else None


def line(run: dict) -> str:
    error = stdev(run["diffs"]) / len(run["diffs"]) ** 0.5
    return (
        f"{run['preset'] or '':9s}{run['method']:58s} {run['seconds_estimate']:6.0f} s  attention "
        f"{run['attention_share']:.2f}  psnr {run['psnr']:.2f}  {mean(run['diffs']):+.2f} ± "
        f"{error:.2f}  worst {run['psnr_worst_frame']:.1f}  lpips {run['lpips_like']:.4f}  flicker "
        f"{run['flicker']:+.3f}  lost {run['lost_objects']:.3f}  {run['seconds']:.1f} s"
    )


def earlier(path: Path) -> dict:
    """What a file says of trainings, its runs, and its note, if it has one."""
    if not path.exists():
        return {"trainings": {}, "runs": []}
    found = json.loads(path.read_text(encoding="utf-8"))
    return {name: found[name] for name in ("note", "trainings", "runs") if name in found}


def main(arguments: list[str] | None = None):
    options = parser(__doc__, lab_model.CHECKPOINT, SECONDS, "ways")
    options.add_argument("--training", type=int, default=1, help="a number for this checkpoint")
    options.add_argument("--set", choices=front_sets.SETS, default="front", dest="which")
    options.add_argument("--frames", type=int, default=lab_model.LAB.frames)
    options.add_argument("--seeds", type=int, default=SEEDS)
    given = options.parse_args(arguments)
    end = time.perf_counter() + given.seconds
    device, version = start_comfyui(given.comfyui.resolve())
    size = front_sets.size_of(given.which, replace(lab_model.LAB, frames=given.frames))
    sizes = TINY if given.tiny else (size, given.seeds, lab_model.STEPS)
    lab = Lab(Ground(lab_model.load(given.checkpoint), *sizes, device))
    ground = lab.ground
    name = f"quality-front-{'tiny' if given.tiny else record.gpu_name()}"
    found = earlier(record.RESULTS / f"{name}.json")
    found |= {"comfyui": version, "passes_of_wan": asdict(real_time.passes())}
    where = {"training": given.training, "grid": grid(ground.layout)}
    key = ", ".join(str(x) for x in where.values())
    found["trainings"][key] = {
        "size": asdict(ground.size),
        "density": round(plan_of(AUTHORS, ground).density, 4),
        "steps": ground.steps,
        "seeds": ground.seeds,
        "dense_lost_objects": round(lab.lost_objects(DENSE), 4),
    }
    print(f"{key}: {found['trainings'][key]}", flush=True)
    for way in in_time(front_sets.SETS[given.which](), end, "ways"):
        began = time.perf_counter()
        run = where | {"method": way.name, "preset": front_sets.preset_of(way)} | lab.measure(way)
        run["seconds"] = round(time.perf_counter() - began, 1)
        others = [each for each in found["runs"] if any(each[x] != run[x] for x in RUN)]
        found["runs"] = [*others, run]
        print(line(run), flush=True)
        with contextlib.redirect_stdout(None):
            record.save(name, means(found["runs"]), **found)
    print(f"Written: results/{name}.json", flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="  %(message)s")
    main()
