"""The training loop of train.py."""

import copy
import math
import time
from dataclasses import asdict, dataclass, replace

import flow
import model
import torch
from muon import Muon
from torch._dynamo.utils import counters
from torch.nn.attention import SDPBackend, sdpa_kernel

EVERY = 20  # seconds between validations


@dataclass(frozen=True)
class Recipe:
    """How to train.

    stages: (frames, clips a step, share of the time at which the stage ends). muon, adam: the
    highest learning rates of the blocks' matrices and of everything else; after the share `falls`
    of the time they fall linearly to 0. average: decay of the weights' moving average, which is the
    model that is saved. gradient: the largest norm.
    """

    stages: tuple[tuple[int, int, float], ...]
    muon: float = 3e-3
    adam: float = 2e-3
    falls: float = 0.4
    warm_up: int = 200  # steps
    average: float = 0.999
    gradient: float = 1.0

    def stage(self, done: float) -> tuple[int, int]:
        return next((frames, count) for frames, count, until in self.stages if done < until)

    def pace(self, step: int, done: float) -> float:
        """The factor of the learning rates, 0 to 1."""
        return min(1.0, (step + 1) / self.warm_up) * min(1.0, (1 - done) / (1 - self.falls))


LAB = Recipe(stages=((4, 16, 0.4), (16, 4, 1.0)))
TINY = Recipe(stages=((2, 8, 0.4), (4, 4, 1.0)), warm_up=20)


def for_clips_of(frames: int, recipe: Recipe) -> Recipe:
    """The recipe with clips of so many frames in the last stage, and about as many tokens a step.

    Never less than one clip a step.
    """
    *shorter, (old_frames, old_count, until) = recipe.stages
    count = max(1, old_frames * old_count // frames)
    return replace(recipe, stages=(*shorter, (frames, count, until)))


class Learner:
    """A model in training, and the moving average of its weights, which is saved."""

    def __init__(self, size: model.Size, recipe: Recipe, seed: int, device: torch.device):
        self.size, self.recipe, self.seed, self.steps = size, recipe, seed, 0
        self.net = model.build(size, device, seed)
        self.net.patch_embedding.register_forward_hook(_tokens_in_rows)
        self.average = copy.deepcopy(self.net).requires_grad_(False)  # run as it is, not compiled
        if device.type == "cuda":
            for block in self.net.blocks:  # one graph for all of them
                block.compile(dynamic=False)
        self.weights = list(self.net.parameters())
        self.averaged = list(self.average.parameters())
        matrices = {name: x for name, x in self.net.named_parameters() if _by_muon(name, x)}
        others = [x for name, x in self.net.named_parameters() if name not in matrices]
        self.muon = Muon(list(matrices.values()))
        self.adam = torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
        self.random = torch.Generator(device).manual_seed(seed)

    def step(self, frames: int, count: int, pace: float) -> torch.Tensor:
        """One step on new clips. Returns the loss, on the device."""
        clips_seed = (self.seed << 32) + self.steps
        drawn = flow.batch(replace(self.size, frames=frames), count, clips_seed, self.random)
        loss = flow.losses(self.net, *drawn).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.weights, self.recipe.gradient)
        self.muon.step(pace * self.recipe.muon)
        self.adam.param_groups[0]["lr"] = pace * self.recipe.adam
        self.adam.step()
        self.net.zero_grad()
        self.steps += 1
        with torch.no_grad():
            part = 1 - min(self.recipe.average, self.steps / (self.steps + 9))
            torch._foreach_lerp_(self.averaged, self.weights, part)
        return loss.detach()


def learn(
    size: model.Size, recipe: Recipe, seconds: float, seed: int, device: torch.device
) -> tuple[torch.nn.Module, flow.Validation, dict]:
    """The averaged WanModel, the validation clips, and the figures.

    seconds: of wall time, including compilation and validation. Stops if the loss is not finite.
    """
    began = time.perf_counter()
    learner = Learner(size, recipe, seed, device)
    held_out = flow.validation(size, device=device)
    kernels = fastest_attention(size, recipe.stages[-1][1], device)
    linear = held_out.linear()
    print(f"attention by {kernels[0].name}; loss of a linear guess {mean(linear):.4f}", flush=True)

    curve, losses_so_far, last, done = [], [], began, 0.0
    with flow.training(), sdpa_kernel(kernels, set_priority=True):
        while done < 1:
            frames, count = recipe.stage(done)
            losses_so_far.append(learner.step(frames, count, recipe.pace(learner.steps, done)))
            now = time.perf_counter()
            done = (now - began) / seconds
            if now - last < EVERY and done < 1:
                continue
            trained = torch.stack(losses_so_far).mean().item()  # waits for the device
            speed = len(losses_so_far) / (time.perf_counter() - last)
            levels = held_out(learner.average)
            last, losses_so_far = time.perf_counter(), []
            row = {
                "seconds": round(last - began, 1),
                "steps": learner.steps,
                "frames": frames,
                "steps_per_s": round(speed, 2),
                "train_loss": round(trained, 4),
                "val_loss": round(mean(levels), 4),
            }
            curve.append(row)
            print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
            if not math.isfinite(trained):
                raise SystemExit("The loss is not a number: nothing is kept")
    figures = {
        "parameters": sum(x.numel() for x in learner.weights),
        "size": asdict(size),
        "tokens": size.tokens,
        "recipe": asdict(recipe),
        "steps": learner.steps,
        "seconds": curve[-1]["seconds"],
        "steps_per_s": curve[-1]["steps_per_s"],
        "val_loss": curve[-1]["val_loss"],
        "linear_loss": round(mean(linear), 4),
        "val_loss_by_sigma": by_sigma(held_out, levels),
        "linear_loss_by_sigma": by_sigma(held_out, linear),
        "attention": kernels[0].name,
        "compiled": dict(counters["stats"]),
        "graph_breaks": sum(counters["graph_break"].values()),
    }
    return learner.average, held_out, figures | {"curve": curve}


def by_sigma(held_out: flow.Validation, losses: list[float]) -> dict[str, float]:
    return {f"{s:.3f}": round(x, 4) for s, x in zip(held_out.levels, losses, strict=True)}


def fastest_attention(size: model.Size, count: int, device: torch.device) -> list[SDPBackend]:
    """PyTorch's attention kernels under torch.compile, the fastest first (forward and backward).

    count: of clips at once.
    """
    others = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    if device.type != "cuda":
        return [SDPBackend.FLASH_ATTENTION, *others]
    heads, shape = size.dim // model.HEAD_DIM, (count, size.tokens, size.dim)
    x = torch.randn(shape, device=device, dtype=torch.bfloat16, requires_grad=True)

    def seconds(kernel: SDPBackend) -> float:
        torch._dynamo.reset()  # else it runs what was compiled for the other kernel
        attend = torch.compile(flow.attention, dynamic=False)

        def run(times: int):
            for _ in range(times):
                (attend(None, x, x, x, heads) * x).sum().backward()
            torch.cuda.synchronize()

        try:
            with sdpa_kernel(kernel):
                run(2)
                start = time.perf_counter()
                run(5)
        except RuntimeError:  # not on this GPU
            return math.inf
        return time.perf_counter() - start

    both = (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION)
    best_first = sorted(both, key=seconds)
    torch._dynamo.reset()
    counters.clear()
    return best_first + others


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _by_muon(name: str, x: torch.Tensor) -> bool:
    """Without cross-attention: it has one token, which is too little gradient for a matrix."""
    return x.ndim == 2 and name.startswith("blocks.") and ".cross_attn." not in name


def _tokens_in_rows(module, given, out: torch.Tensor) -> torch.Tensor:
    """The memory layout of a block's output, so that the first block needs no separate graph."""
    return out.contiguous(memory_format=torch.channels_last_3d)
