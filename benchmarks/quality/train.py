"""Train the lab's video model from scratch, on one GPU in 8 minutes, and show what it learned.

    python benchmarks/quality/train.py --comfyui FOLDER [--frames 48]

Flow matching on procedural video that is generated on the GPU during training. Short clips come
first: with 4 frames, a step has 16 scenes and 16 noise levels at half the cost. Writes the
checkpoint, which is not committed, results/quality-train-GPU.json (losses, speed, decay of
attention) and results/quality-samples-GPU.jpg (four real clips, then four samples, six frames of
each). With --model-only it writes the checkpoint alone. With --frames, the clips after the short
ones have so many frames, with fewer clips a step, and the results are named for them.

The first 20 s of training pass in compiling, and some more where clips become longer: give it 90 s
at least.
"""

import argparse
import logging
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # `python -P` does not do this

import codec
import decay
import flow
import model
import torch
import video
from lab import record, start_comfyui
from learn import LAB, TINY, for_clips_of, learn
from PIL import Image

SAMPLE_SEEDS = (1, 2, 3, 4)


def sheet(size: model.Size, sampled: torch.Tensor, path: Path, rows: int = 4, columns: int = 6):
    """Save a picture of real clips above sampled ones, with frames from left to right."""
    real = video.clips(flow.HELD_OUT, rows, *size.pixels)
    clips = torch.cat([real, codec.decode(sampled[:rows])])
    at = torch.linspace(0, size.frames - 1, min(columns, size.frames)).round().long()
    lines = [torch.cat(list(clip[at]), dim=1) for clip in clips]
    pixels = (torch.cat(lines) * 255).round().byte().numpy()
    picture = Image.fromarray(pixels)
    width, height = picture.size
    picture = picture.resize((width * 3 // 4, height * 3 // 4), Image.LANCZOS)
    path.parent.mkdir(exist_ok=True)
    picture.save(path, quality=82, optimize=True)
    print(f"Written: {path.relative_to(record.ROOT)} ({path.stat().st_size // 1024} KB)")


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--comfyui", type=Path, required=True, help="ComfyUI's folder")
    parser.add_argument("--checkpoint", type=Path, default=model.CHECKPOINT)
    parser.add_argument("--seconds", type=float, default=480, help="of training")
    parser.add_argument("--frames", type=int, help="of the model's clips, 16 by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tiny", action="store_true", help="a model for the CPU")
    parser.add_argument("--model-only", action="store_true", help="show nothing of what it learned")
    given = parser.parse_args(arguments)
    device, version = start_comfyui(given.comfyui.resolve())
    size, recipe = (model.TINY, TINY) if given.tiny else (model.LAB, LAB)
    machine = "tiny" if given.tiny else record.gpu_name()
    frames = given.frames or size.frames
    if frames != size.frames:
        size, recipe = replace(size, frames=frames), for_clips_of(frames, recipe)
        machine = f"{frames}-frames-{machine}"
    _, count, _ = recipe.stages[-1]
    print(f"clips of {frames} frames, {size.tokens} tokens; at last {count} a step", flush=True)

    net, held_out, figures = learn(size, recipe, given.seconds, given.seed, device)
    model.save(net.state_dict(), given.checkpoint)
    print(f"Written: {given.checkpoint}", flush=True)
    if given.model_only:
        return
    curve = figures.pop("curve")

    def save():
        record.save(f"quality-train-{machine}", curve, comfyui=version, seed=given.seed, **figures)

    save()
    del net
    patcher = model.load(given.checkpoint)
    began = time.perf_counter()
    sampled = model.sample(patcher, SAMPLE_SEEDS, size.latent)
    figures["sampling_s"] = round(time.perf_counter() - began, 1)
    sheet(size, sampled, record.RESULTS / f"quality-samples-{machine}.jpg")
    through = held_out.through_comfy(patcher)
    figures["val_loss_comfyui"] = round(sum(through) / len(through), 4)
    print(f"validation loss of the MODEL in ComfyUI: {figures['val_loss_comfyui']}", flush=True)
    save()
    figures["decay"] = decay.measure(patcher, held_out.clean, held_out.noise)
    decay.show(figures["decay"])
    save()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="  %(message)s")
    main()
