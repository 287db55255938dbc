"""Are lists per head, chosen where heads look, better than the radial mask? At real proportions.

    python benchmarks/quality/proportions.py --comfyui FOLDER --checkpoint PATH --training 1

Blocks have 16 tokens, and the radial rule (decay 0.2, a sink of one frame) is in proportion: see
masks.py. Samples some videos in one batch, dense and then in other ways, and writes
results/quality-proportions-GPU.json after each:

radial            the paper's mask, one list for all heads, layers and steps
adaptive          as the pack has it: in its first sparse step, and again after a quarter of the
                  steps if that is later, each head chooses the blocks that it attends to most;
                  `budget` as many of them as radial
adaptive, ...     the same but for one thing: see list_ways.py
pooled, ...       lists from pooled scores, anew at each step
sol_attn's rule   the same, and all other blocks as means: see per_head.py
calibrated        one list for each head and layer, from dense runs of other videos
spatial           the nearest frames

For each way: PSNR with the dense video of the same seed, the difference to radial with as many
dense steps, and for some the validation loss with sparse attention at every step, where adaptive
lists are chosen in each call. A second training of the model (`train.py --seed`) shows what
holds for more than one: its cases are added to the file.
"""

import contextlib
import json
import logging
import sys
import time
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # `python -P` does not do this

import masks
import metrics
import model as lab_model
import per_head
import rest
import torch
from ground import Ground
from lab import in_time, parser, record, start_comfyui
from list_ways import BUDGETS, CALIBRATED, LOOKS, RADIAL, SOL, SPATIAL, Looks, Way, ways
from masked import Attention, masked
from other_videos import mass_of_others

from radial_core import Schedule
from radial_core.adaptive.choice import Rows, most_attended, rows_of

SEEDS, SECONDS = 8, 110
TINY = (replace(lab_model.TINY, frames=5, width=32), 2, 10)  # size, seeds, steps
DECAY, SINK_FRAMES = 0.2, 1  # the authors'


class Lab:
    """The model, its dense videos, and what was measured against them."""

    def __init__(self, ground: Ground):
        self.ground, self.psnr_of_radial = ground, {}
        self.plan = masks.radial_plan_in_proportion(
            ground.layout, DECAY, SINK_FRAMES, ground.device
        )

    def rows(self, budget: float) -> Rows:
        return rows_of(self.plan, budget)

    def dense_steps(self, way: Way) -> int:
        return int(way.dense * self.ground.steps)

    def dense_looks(self, way: Way) -> int:
        """In how many of its dense steps a way looks."""
        return min(LOOKS[way.lists].dense if way.lists in LOOKS else 0, self.dense_steps(way))

    def attention(self, way: Way) -> Attention:
        """For one run, from the first step in which it looks."""
        looks = LOOKS.get(way.lists)
        if looks is None:
            return self.attention_of_any_run(way)
        if dense := self.dense_looks(way):
            return per_head.looks_before(looks.scores, self.rows(way.budget), dense, looks.sparse)
        steps = [int(share * self.ground.steps) for share in looks.again]
        calls = [step - self.dense_steps(way) for step in steps]
        return per_head.looks_again(self.finder(way), [call for call in calls if call > 0])

    def attention_of_any_run(self, way: Way) -> Attention:
        """The same with lists that are chosen in each call, if not before the run."""
        if way.lists == RADIAL:
            return self.one_list(self.plan.block_mask())
        if way.lists == SPATIAL:
            keep = round(way.budget * self.plan.density * self.plan.blocks)
            return self.one_list(masks.spatial(self.ground.layout, keep, masks.SMALL_BLOCK))
        if way.lists == CALIBRATED:
            kept = [most_attended(mass, self.rows(way.budget)) for mass in self.mass_of_others]
            return per_head.fixed([per_head.BlockLists(each) for each in kept])
        if way.lists == SOL:
            return rest.with_the_rest_pooled(self.rows(way.budget))
        return per_head.looks_anew(self.finder(way))

    def finder(self, way: Way) -> per_head.Finder:
        looks = LOOKS.get(way.lists, Looks(per_head.pooled(4)))
        return per_head.finder(looks.scores, self.rows(way.budget), looks.choice)

    def one_list(self, kept: torch.Tensor) -> Attention:
        lists = per_head.BlockLists(kept[None].to(self.ground.device))
        return per_head.fixed([lists] * self.ground.layers)

    @cached_property
    def mass_of_others(self) -> list[torch.Tensor]:
        return mass_of_others(self.ground)

    def measure(self, way: Way) -> dict:
        """Sample in this way, and compare with the dense videos."""
        ground, dense = self.ground, self.dense_steps(way)
        attention, calls = counted(self.attention(way))
        first = dense - self.dense_looks(way)
        video = ground.sample(
            masked(ground.model, attention, ground.layout.tokens, Schedule(first))
        )
        expected = (ground.steps - first) * ground.layers
        if len(calls) != expected:
            raise RuntimeError(f"{way}: expected {expected} calls, got {len(calls)}")
        psnr = metrics.psnr(video, ground.reference).cpu()  # (b, f)
        by_seed = psnr.mean(dim=1)
        if way.lists == RADIAL:
            self.psnr_of_radial[dense] = by_seed
        difference = by_seed - self.psnr_of_radial[dense]
        loss = self.loss(way) if way.loss else None
        return {
            "lists": way.lists,
            "budget": way.budget,
            "dense_steps": dense,
            "psnr": round(by_seed.mean().item(), 3),
            "psnr_of_seeds": [round(x, 3) for x in by_seed.tolist()],
            "diff_to_radial": round(difference.mean().item(), 3),
            "diff_se": round(difference.std().item() / len(difference) ** 0.5, 3),
            "val_loss": None if loss is None else round(loss, 5),
            "val_loss_added": None if loss is None else round(loss - self.dense_loss, 5),
            "worst_frame": round(psnr.amin(dim=1).mean().item(), 3),
        }

    @cached_property
    def dense_loss(self) -> float:
        return self.ground.loss(self.ground.model)

    def loss(self, way: Way) -> float:
        """The validation loss with sparse attention at every step."""
        attention = self.attention_of_any_run(way)
        return self.ground.loss(masked(self.ground.model, attention, self.ground.layout.tokens))


def counted(attention: Attention) -> tuple[Attention, list]:
    """An attention, and a list that gets the layer of each call."""
    calls = []

    def counting(q, k, v, layer):
        calls.append(layer)
        return attention(q, k, v, layer)

    return counting, calls


def line(case: dict) -> str:
    difference = f"{case['diff_to_radial']:+.2f} ± {case['diff_se']:.2f}"
    added = case["val_loss_added"]
    loss = "" if added is None else f"  loss {added:+.5f}"
    return (
        f"{case['lists']:44s} {case['budget']:4.2f}  {case['dense_steps']:2d} dense  psnr "
        f"{case['psnr']:.2f}  {difference}  worst {case['worst_frame']:.2f}  "
        f"{case['seconds']:.1f} s{loss}"
    )


def of_other_trainings(path: Path, training: int) -> tuple[dict, list[dict]]:
    """What a file already says of other trainings, and their cases."""
    if not path.exists():
        return {}, []
    found = json.loads(path.read_text(encoding="utf-8"))
    about = {name: each for name, each in found["trainings"].items() if name != str(training)}
    return about, [case for case in found["cases"] if case["training"] != training]


def main(arguments: list[str] | None = None):
    options = parser(__doc__, lab_model.CHECKPOINT, SECONDS, "ways")
    options.add_argument("--training", type=int, default=1, help="a number for this checkpoint")
    given = options.parse_args(arguments)
    end = time.perf_counter() + given.seconds
    device, version = start_comfyui(given.comfyui.resolve())
    sizes = TINY if given.tiny else (lab_model.LAB, SEEDS, lab_model.STEPS)
    ground = Ground(lab_model.load(given.checkpoint), *sizes, device)
    lab = Lab(ground)
    name = f"quality-proportions-{'tiny' if given.tiny else record.gpu_name()}"
    trainings, others = of_other_trainings(record.RESULTS / f"{name}.json", given.training)
    trainings[str(given.training)] = {
        "steps": ground.steps,
        "seeds": ground.seeds,
        "dense_val_loss": round(lab.dense_loss, 5),
    }
    about = {"comfyui": version, "size": asdict(ground.size), "decay": DECAY}
    about |= {"sink_frames": SINK_FRAMES, "density": round(lab.plan.density, 4)}
    about |= {
        "densities": {f"{budget:g}": round(lab.rows(budget).density, 4) for budget in BUDGETS}
    }
    cases = []
    for way in in_time(ways(), end, "ways"):
        began = time.perf_counter()
        case = lab.measure(way) | {"training": given.training}
        cases.append(case | {"seconds": round(time.perf_counter() - began, 1)})
        print(line(cases[-1]), flush=True)
        every = sorted([*others, *cases], key=lambda case: case["training"])
        with contextlib.redirect_stdout(None):
            record.save(name, every, **about, trainings=dict(sorted(trainings.items())))
    if cases:
        print(f"Written: results/{name}.json")


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="  %(message)s")
    main()
