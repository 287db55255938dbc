"""How close does each mask come to the dense model's video, at which cost? Same seeds, no training.

    python benchmarks/quality/compare.py --comfyui FOLDER [--only TEXT ...]

Samples the lab's model dense, then with each row of grid.py, and writes
results/quality-compare-GPU.json after each. It measures for each row:

density           kept share of the block map where a call is not dense
kept_flops        kept share of the self-attention's work over all steps and blocks
psnr ...          similarity to the dense videos of the same seeds, see metrics.py; psnr_edges: the
                  top and bottom eighth of the picture; psnr_of_frames: the mean at each frame
consistency       of neighbouring frames, and its difference from the dense videos'
attention_error   relative RMS of a call's output, on the dense run's q, k, v; all blocks, 3 steps
val_loss          flow-matching loss on held-out clips, with the mask at every step: how well the
                  model still does what it was trained for, independent of the seeds
"""

import contextlib
import json
import logging
import time
from dataclasses import asdict, replace

import metrics
import model as lab_model
import torch
from grid import Row, main_rows, straddling_rows, variations
from ground import Ground
from lab import in_time, parser, record, start_comfyui
from table import front

SEEDS = 6
SECONDS = 200


class Results:
    """The rows so far, saved after each.

    Rows of an earlier run with the same model and sizes stay until they are run again.
    """

    def __init__(self, name: str, grounds: dict[str, Ground], comfyui: str):
        self.name = name
        self.about = {"comfyui": comfyui, "sizes": {}}
        for at, ground in grounds.items():
            self.about["sizes"][at] = about = {
                **asdict(ground.size),
                "grid": [ground.layout.frames, ground.layout.height, ground.layout.width],
                "steps": ground.steps,
                "seeds": ground.seeds,
                "dense_consistency": round(metrics.consistency(ground.reference).mean().item(), 5),
                "dense_val_loss": round(ground.loss(ground.model), 5),
            }
            print(f"dense, {at}: {about}", flush=True)
        self.rows = self._earlier()

    def _earlier(self) -> dict[tuple[str, str], dict]:
        path = record.RESULTS / f"{self.name}.json"
        if not path.exists():
            return {}
        found = json.loads(path.read_text())
        if any(found[key] != value for key, value in self.about.items()):
            return {}
        return {(row["size"], row["name"]): row for row in found["cases"]}

    def add(self, at: str, row: Row, ground: Ground):
        found = {"size": at, "question": row.question, "name": str(row)}
        found |= {"mask": asdict(row.mask), "schedule": asdict(row.schedule)}
        missing = ground.why_missing(row.mask)
        try:
            found |= ground.measure(row) if missing is None else {"missing": missing}
        except Exception as error:  # go on with the other rows
            logging.exception("%s failed", row)
            found["missing"] = f"failed: {type(error).__name__}: {error}"
        self.rows[at, str(row)] = found
        print(line(found), flush=True)
        with contextlib.redirect_stdout(None):
            self.save()

    def save(self):
        record.save(self.name, list(self.rows.values()), **self.about)

    def print_front(self):
        """The rows of the lab's size that no other row beats with no more work."""
        for whose, methods in (("all masks", None), ("the radial ones", ("radial",))):
            print(f"\nThe front of {whose}: no other comes nearer at no more work")
            for row in front(list(self.rows.values()), methods):
                print(line(row))


def line(row: dict) -> str:
    name = row["name"] if row["size"] == "lab" else f"{row['size']}: {row['name']}"
    if "missing" in row:
        return f"{name}: {row['missing']}"
    return (
        f"{name:70s} work {row['kept_flops']:.3f}  psnr {row['psnr']:.2f}  "
        f"ssim {row['ssim']:.4f}  lpips {row['lpips_like']:.4f}  error {row['attention_error']:.4f}"
        f"  val {row['val_loss']:.4f}  {row['seconds']:.1f} s"
    )


def grounds_of(model, device: torch.device, tiny: bool) -> dict[str, Ground]:
    """The sizes to compare at: the trained one, and one where frames start inside blocks."""
    if tiny:
        size = replace(lab_model.TINY, frames=8, height=8, width=32)
        straddling, seeds, steps = replace(size, frames=16, height=6), 2, 4
    else:
        size = lab_model.LAB
        straddling, seeds, steps = replace(size, height=30), SEEDS, lab_model.STEPS
    sizes = {"lab": size, "straddling": straddling}
    return {at: Ground(model, size, seeds, steps, device) for at, size in sizes.items()}


def rows_of(grounds: dict[str, Ground], tiny: bool) -> list[tuple[str, Row]]:
    """(size, row) pairs, the most important first; with `tiny` one row of each method."""
    lab, steps = grounds["lab"].layout, grounds["lab"].steps
    rows = [("lab", row) for row in main_rows(lab, steps)]
    rows += [("straddling", row) for row in straddling_rows(steps)]
    rows += [("lab", row) for row in variations(lab, steps)]
    if not tiny:
        return rows
    last = {(at, row.mask.method): row for at, row in rows}
    return [(at, row) for (at, _), row in last.items()]


def main(arguments: list[str] | None = None):
    options = parser(__doc__, lab_model.CHECKPOINT, SECONDS, "rows")
    options.add_argument(
        "--only", nargs="*", default=[""], help="run only rows whose text has one of these"
    )
    given = options.parse_args(arguments)
    end = time.perf_counter() + given.seconds
    device, version = start_comfyui(given.comfyui.resolve())
    grounds = grounds_of(lab_model.load(given.checkpoint), device, given.tiny)
    machine = "tiny" if given.tiny else record.gpu_name()
    results = Results(f"quality-compare-{machine}", grounds, version)
    rows = rows_of(grounds, given.tiny)
    rows = [each for each in rows if any(word in repr(each[1]) for word in given.only)]
    for at, row in in_time(rows, end, "rows"):
        results.add(at, row, grounds[at])
    results.print_front()
    results.save()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="  %(message)s")
    main()
