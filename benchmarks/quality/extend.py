"""Length extension: is a LoRA tuned with radial attention as good for long videos as a dense one?

    python benchmarks/quality/extend.py --comfyui FOLDER [--lengths 4 2] [--methods radial-tuned]

Tests the paper's claim on the lab's model, which was trained at 16 frames. At 2x and 4x that
length: without tuning, with dense and with radial attention; with a LoRA that ComfyUI's node "Train
LoRA" tuned with dense attention, sampled dense; and with one tuned and sampled radial. Both are
tuned on the same clips and noise for as many steps. Radial is the paper's recipe (decay 1, one sink
frame) at every step, with the first of eight blocks dense.

Writes results/quality-extend-GPU.json after each row. Rows of an earlier run with the same model
and settings stay until they are run again. If all methods are run, it also writes a sheet for each
length: four seeds a method, eight frames spread over the length, real clips on top. It measures for
each row:

val_loss          flow-matching loss on held-out clips of that length (fixed noise, four sigmas)
frechet ...       whether samples still look like real clips, see extend_stats.py
tuning_s_a_step   seconds of a training step
sampling_s        seconds to sample all seeds
kept              kept share of the self-attention's blocks, over all layers
"""

import argparse
import json
import logging
import time
from dataclasses import asdict
from pathlib import Path

import codec
import flow
import model as lab_model
import torch
from extend_stats import Real
from extend_tune import (
    LEARNING_RATE,
    RANK,
    Attention,
    training_clips,
    tune,
    with_lora,
)
from lab import record, start_comfyui
from PIL import Image, ImageDraw

from radial_core import RadialPattern, VideoLayout, make_plan

SAMPLE_SEED = 5000  # the first one
SAMPLING_STEPS = 20
MOST_CLIPS = 128  # to tune on
SHEET_SEEDS, SHEET_FRAMES = 4, 8
DENSE, RADIAL = Attention(radial=False), Attention(radial=True)
METHODS = {  # name -> attention for sampling, attention for tuning its LoRA (None: no LoRA)
    "untouched, dense": (DENSE, None),
    "untouched, radial": (RADIAL, None),
    "dense-tuned": (DENSE, DENSE),
    "radial-tuned": (RADIAL, RADIAL),
}


class Length:
    """What the methods share at one length."""

    def __init__(self, size: lab_model.Size, times: int, given, device: torch.device):
        self.size, self.times, self.given, self.device = size.longer(times), times, given, device
        self.real = Real(self.size.pixels, given.seeds, device)
        self.held_out = flow.validation(self.size, given.held_out, device=device)
        self.pictures = {"real": self.real.clips(0)[:SHEET_SEEDS]}
        self._clips = None

    @property
    def clips(self) -> torch.Tensor:
        if self._clips is None:
            count = min(MOST_CLIPS, self.given.steps * self.given.batch)
            self._clips = training_clips(self.size, count, self.device)
        return self._clips

    def kept(self, attention: Attention) -> float:
        """The share of the self-attention's blocks that is kept."""
        if not attention.radial:
            return 1.0
        tokens = (self.size.height // lab_model.PATCH, self.size.width // lab_model.PATCH)
        pattern = RadialPattern(attention.decay, attention.sink_frames, attention.block_size)
        density = make_plan(pattern, VideoLayout(self.size.frames, *tokens), self.device).density
        dense = attention.dense_blocks / self.size.layers
        return dense + (1 - dense) * density

    def row(self, base, method: str) -> dict:
        """Tune a LoRA if the method has one, then measure."""
        attention, tuned_with = METHODS[method]
        found = {"name": f"{self.times}x, {method}", "times": self.times, "method": method}
        found |= {"frames": self.size.frames, "kept": round(self.kept(attention), 4)}
        model = base
        if tuned_with is not None:
            settings = {name: getattr(self.given, name) for name in ("rank", "learning_rate")}
            lora, figures = tune(
                *(base, tuned_with, self.clips, self.given.steps, self.given.batch), **settings
            )
            model, found = with_lora(base, lora), found | figures
        model = attention.on(model)
        levels = self.held_out.through_comfy(model)
        found["val_loss"] = round(sum(levels) / len(levels), 5)
        found["val_loss_levels"] = [round(level, 5) for level in levels]
        seeds = range(SAMPLE_SEED, SAMPLE_SEED + self.given.seeds)
        start = time.perf_counter()
        latents = lab_model.sample(model, seeds, self.size.latent, self.given.sampling_steps)
        found["sampling_s"] = round(time.perf_counter() - start, 2)
        found["sampling_kernel"] = attention.ran(model)
        clips = codec.decode(latents.to(self.device))
        self.pictures[method] = clips[:SHEET_SEEDS]
        return found | self.real.compare(clips)

    def sheet(self, path: Path):
        """Save a picture: a row for each seed with frames from left to right, grouped by method."""
        _, height, width = self.size.pixels
        at = torch.linspace(0, self.size.frames - 1, SHEET_FRAMES).round().long()
        across, down = width // 2, height // 2
        rows = sum(len(clips) for clips in self.pictures.values())
        label = 10
        picture = Image.new(
            "RGB", (SHEET_FRAMES * across, rows * down + label * len(self.pictures)), "white"
        )
        draw, y = ImageDraw.Draw(picture), 0
        for name, clips in self.pictures.items():
            draw.text((2, y - 1), name, fill="black")
            y += label
            for clip in clips:
                line = torch.cat(list(clip[at.to(clip.device)]), dim=1)
                pixels = (255 * line).round().byte().cpu().numpy()
                line = Image.fromarray(pixels).resize((SHEET_FRAMES * across, down), Image.LANCZOS)
                picture.paste(line, (0, y))
                y += down
        path.parent.mkdir(exist_ok=True)
        picture.save(path, quality=80, optimize=True)
        print(f"Written: {path.name} ({path.stat().st_size // 1024} KB)", flush=True)


def show(row: dict):
    skipped = ("name", "times", "method", "frames")
    print(f"{row['name']}: " + json.dumps({k: v for k, v in row.items() if k not in skipped}))


def table(rows: list[dict]):
    names = ("kept", "val_loss", "frechet", "motion", "sharpness", "consistency")
    names += ("tuning_s_a_step", "sampling_s")
    print(f"{'':28}" + "".join(f"{name:>16}" for name in names))
    for row in rows:
        values = (row.get(name) for name in names)
        print(f"{row['name']:28}" + "".join(f"{'' if v is None else v:>16}" for v in values))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--comfyui", type=Path, required=True, help="ComfyUI's folder")
    parser.add_argument("--checkpoint", type=Path, default=lab_model.CHECKPOINT)
    parser.add_argument("--lengths", type=int, nargs="*", default=[4, 2], help="times 16 frames")
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument("--steps", type=int, default=150, help="training steps for each method")
    parser.add_argument("--batch", type=int, default=1, help="clips a step")
    parser.add_argument("--rank", type=int, default=RANK)
    parser.add_argument("--learning-rate", type=float, default=LEARNING_RATE)
    parser.add_argument("--seeds", type=int, default=8, help="videos sampled for each method")
    parser.add_argument("--sampling-steps", type=int, default=SAMPLING_STEPS)
    parser.add_argument("--held-out", type=int, default=8, help="clips of the validation loss")
    parser.add_argument("--tiny", action="store_true", help="a model for the CPU")
    given = parser.parse_args()
    device, version = start_comfyui(given.comfyui.resolve())
    size = lab_model.TINY if given.tiny else lab_model.LAB
    machine = "tiny" if given.tiny else record.gpu_name()
    run(size, machine, given, device, version)


def run(size: lab_model.Size, machine: str, given, device: torch.device, version: str):
    name, began = f"quality-extend-{machine}", time.perf_counter()
    base = lab_model.load(given.checkpoint)
    levels = flow.validation(size, given.held_out, device=device).through_comfy(base)
    about = {"comfyui": version, "size": asdict(size), "radial": asdict(RADIAL)}
    about["settings"] = {x: value for x, value in vars(given).items() if x not in _NOT_SETTINGS}
    about["dense_val_loss"] = round(sum(levels) / len(levels), 5)  # tells models apart
    real, rows = earlier(record.RESULTS / f"{name}.json", about)
    for times in (1, *given.lengths):
        methods = [x for x in given.methods if times > 1 or METHODS[x][1] is None]
        if not methods:
            continue
        length = Length(size, times, given, device)
        real[f"{times}x"] = length.real.floor
        for method in methods:
            row = length.row(base, method)
            rows[row["name"]] = row
            show(row)
            record.save(name, list(rows.values()), **about, real=real)
            print(f"  {time.perf_counter() - began:.0f} s in all", flush=True)
        if set(given.methods) == set(METHODS):
            length.sheet(record.RESULTS / f"quality-extend-{times}x-{machine}.jpg")
    table(list(rows.values()))


def earlier(path: Path, about: dict) -> tuple[dict, dict[str, dict]]:
    """What another run left: the figures of real clips by length, and the rows by name.

    Empty if it was about something else.
    """
    found = json.loads(path.read_text()) if path.exists() else {}
    if any(found.get(key) != value for key, value in about.items()):
        return {}, {}
    return found["real"], {row["name"]: row for row in found["cases"]}


_NOT_SETTINGS = ("comfyui", "checkpoint", "tiny", "lengths", "methods")


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="  %(message)s")
    main()
