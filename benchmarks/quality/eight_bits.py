"""What do 8 bits cost? 8-bit radial attention against exact radial attention, same seeds.

    python benchmarks/quality/eight_bits.py --comfyui FOLDER

Measures on the lab's model, and writes results/quality-eight-bits-GPU.json after each case:

videos            how near the videos of 8-bit radial attention are to those of exact radial
                  attention, see metrics.py; psnr_to_dense: of both to the dense videos
validation loss   what the mask adds to the dense model's loss, what 8 bits add to that, and the
                  latter as a share of the former; each as a mean over the same held-out clips with
                  its standard error
attention error   relative RMS of a call's output against float64 over the same kept blocks, on the
                  q, k, v of a dense run: every transformer block at five steps. Median and worst,
                  and each by step (rows) and block. Once as recorded, once with 70 % of K's energy
                  moved into 4 channels of each head

Dense calls run ComfyUI's attention in all of them.
"""

import contextlib
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parent))  # `python -P` does not do this

import flow
import metrics
import model as lab_model
import torch
from compare import grounds_of
from grid import Mask
from ground import MEASURED_SEEDS, Ground, likeness
from lab import in_time, parser, record, start_comfyui
from masked import ALWAYS, Attention, Recorded, masked, recorder

from radial_core import Plan, RadialPattern, Schedule, make_plan
from radial_core.attention import attend
from radial_core.backends.contract import PRECISIONS
from radial_core.reference import reference_attention

BACKEND = "triton_int8"
EXACT = "auto"
SECONDS = 200
MASKS = tuple(Mask("radial", size, decay=0.2, sink_frames=1) for size in (128, 64))
CLIPS, CLIPS_AT_ONCE = 64, 8  # the difference is small: it needs many
RECORDED = (0, 0.25, 0.5, 0.75, 0.999)  # the steps whose calls are recorded, as shares
FEW, SHARE = 4, 0.7  # so many channels of K get this share of its energy
BARS = {"psnr": 40.0, "share_of_the_masks_loss": 0.02, "attention_error": 0.025}


class Lab:
    """The model, its dense videos and losses, and models with a mask run by one backend."""

    def __init__(self, ground: Ground, backend: str, clips: int):
        self.ground, self.backend = ground, backend
        self.validation = flow.validation(ground.size, clips, device=ground.device)
        self.ran = {}  # backend asked for -> those that ran
        self.dense_losses = self.losses(ground.model)

    @property
    def recorded_steps(self) -> list[int]:
        return sorted({int(share * self.ground.steps) for share in RECORDED})

    @cached_property
    def calls(self) -> list[Recorded]:
        """The self-attention of a dense run, step by step, block by block."""
        ground = self.ground
        model, calls = recorder(ground.model, ground.layout.tokens, set(self.recorded_steps))
        lab_model.sample(model, [MEASURED_SEEDS], ground.size.latent, ground.steps)
        return calls

    def plan(self, mask: Mask) -> Plan:
        pattern = RadialPattern(mask.decay, mask.sink_frames, mask.block_size)
        return make_plan(pattern, self.ground.layout, self.ground.device)

    def attention(self, mask: Mask, backend: str) -> Attention:
        """Raises RuntimeError if another backend takes the call from the one that is named."""
        plan, ran = self.plan(mask), self.ran.setdefault(backend, set())

        def attention(q, k, v, layer):
            out, _, name = attend(q, k, v, plan, backend)
            if backend not in (name, EXACT):
                raise RuntimeError(f"{backend} failed, and {name} ran: see the log")
            ran.add(name)
            return out

        return attention

    def patched(self, mask: Mask, backend: str, schedule: Schedule = ALWAYS):
        attention = self.attention(mask, backend)
        return masked(self.ground.model, attention, self.ground.layout.tokens, schedule)

    def losses(self, model) -> torch.Tensor:
        """Flow-matching loss of each held-out clip, the mean over the noise levels: (clips,)."""
        clips, noises = (
            x.split(CLIPS_AT_ONCE) for x in (self.validation.clean, self.validation.noise)
        )
        at_levels = [
            torch.cat(
                [lab_model.loss(model, *pair, level) for pair in zip(clips, noises, strict=True)]
            )
            for level in self.validation.levels
        ]
        return torch.stack(at_levels).double().mean(dim=0)


def videos(lab: Lab, mask: Mask, dense_steps: int) -> dict:
    ground, schedule = lab.ground, Schedule(dense_steps)
    exact, rounded = (
        ground.sample(lab.patched(mask, backend, schedule)) for backend in (EXACT, lab.backend)
    )
    to_dense = [metrics.psnr(x, ground.reference).mean().item() for x in (exact, rounded)]
    return {
        "dense_steps": dense_steps,
        **likeness(rounded, exact),
        "ssim_of_seeds": [round(x, 5) for x in metrics.ssim(rounded, exact).tolist()],
        "psnr_to_dense": dict(zip(PRECISIONS, (round(x, 3) for x in to_dense), strict=True)),
    }


def validation_loss(lab: Lab, mask: Mask) -> dict:
    exact, rounded = (lab.losses(lab.patched(mask, name)) for name in (EXACT, lab.backend))
    mask_adds, eight_bits_add = exact - lab.dense_losses, rounded - exact
    cost = mask_adds.mean().item()
    share = _with_error(eight_bits_add / cost)  # the error of the cost itself is not in it
    return {
        "clips": len(exact),
        "dense": _with_error(lab.dense_losses),
        "mask_adds": _with_error(mask_adds),
        "eight_bits_add": _with_error(eight_bits_add),
        "share_of_the_masks_loss": share,
    }


def attention_error(lab: Lab, mask: Mask, change: Callable, of: str) -> dict:
    """change: K -> another K (b, s, h, d). of: what it is called."""
    plan, found = lab.plan(mask), {EXACT: [], lab.backend: []}
    with torch.inference_mode():
        for call in lab.calls:
            q, k, v = call.q, change(call.k), call.v
            truth = reference_attention(q, k, v, plan)
            for backend, errors in found.items():
                out = lab.attention(mask, backend)(q, k, v, call.layer)
                errors.append(((out.double() - truth).norm() / truth.norm()).item())
    rounded = found[lab.backend]
    by_step = torch.tensor(rounded).view(len(lab.recorded_steps), -1).tolist()
    return {
        "inputs": of,
        "steps": lab.recorded_steps,
        "calls": len(rounded),
        "error_median": round(median(rounded), 5),
        "error_worst": round(max(rounded), 5),
        "error_of_exact_worst": round(max(found[EXACT]), 5),
        "error_by_step": [[round(x, 5) for x in row] for row in by_step],
    }


def in_few_channels(k: torch.Tensor) -> torch.Tensor:
    """K (b, s, h, d) with 70 % of each head's energy in the 4 channels that have most, and as much
    in all.

    Energy is that of K less its mean over tokens, which a softmax does not see.
    """
    mean = k.float().mean(dim=1, keepdim=True)
    apart = k.float() - mean
    energy = apart.square().sum(dim=1, keepdim=True)  # (b, 1, h, d)
    few = torch.zeros_like(energy).scatter_(-1, energy.topk(FEW, dim=-1).indices, 1.0)
    total, loud = energy.sum(-1, keepdim=True), (energy * few).sum(-1, keepdim=True)
    scale = torch.where(few > 0, SHARE * total / loud, (1 - SHARE) * total / (total - loud))
    return (mean + apart * scale.sqrt()).to(k.dtype)


def _with_error(x: torch.Tensor) -> dict:
    """The mean over the clips, and its standard error."""
    return {
        "mean": round(x.mean().item(), 7),
        "standard_error": round((x.std() / len(x) ** 0.5).item(), 7),
    }


def questions(steps: int) -> list[tuple[str, Mask, Callable]]:
    """What to measure: the question, the mask, and a function of a Lab and the mask.

    All of one mask comes first, since time may be up before the other's turn.
    """
    inputs = {"as recorded": lambda k: k, "70 % of K in 4 channels": in_few_channels}
    found = []
    for mask in MASKS:
        for dense in (steps // 4, 0):
            found.append(("videos", mask, partial(videos, dense_steps=dense)))
        for of, change in inputs.items():
            error = partial(attention_error, change=change, of=of)
            found.append(("attention error", mask, error))
        found.append(("validation loss", mask, validation_loss))
    return found


def line(case: dict) -> str:
    name = f"{case['question']}, {case['mask']}"
    if case["question"] == "videos":
        return (
            f"{name}, {case['dense_steps']} dense steps: psnr {case['psnr']:.2f} "
            f"(bar {BARS['psnr']:g})  ssim {case['ssim']:.4f}  of seeds {case['psnr_of_seeds']}"
        )
    if case["question"] == "validation loss":
        share = case["share_of_the_masks_loss"]
        return (
            f"{name}: mask {case['mask_adds']}, 8 bits {case['eight_bits_add']}, "
            f"share {share['mean']:.2%} ± {share['standard_error']:.2%} "
            f"(bar {BARS['share_of_the_masks_loss']:.0%})"
        )
    return (
        f"{name}, {case['inputs']}, {case['calls']} calls: median {case['error_median']:.4f}, "
        f"worst {case['error_worst']:.4f} (bar {BARS['attention_error']:g}); "
        f"exact at worst {case['error_of_exact_worst']:.4f}"
    )


def main(arguments: list[str] | None = None):
    options = parser(__doc__, lab_model.CHECKPOINT, SECONDS, "cases")
    options.add_argument("--backend", default=BACKEND, help="the 8-bit one")
    given = options.parse_args(arguments)
    end = time.perf_counter() + given.seconds
    device, version = start_comfyui(given.comfyui.resolve())
    ground = grounds_of(lab_model.load(given.checkpoint), device, given.tiny)["lab"]
    lab = Lab(ground, given.backend, CLIPS_AT_ONCE if given.tiny else CLIPS)
    machine, cases, exact = "tiny" if given.tiny else record.gpu_name(), [], []
    about = {"comfyui": version, "backend": given.backend, "bars": BARS}
    about |= {"size": asdict(ground.size), "steps": ground.steps, "seeds": ground.seeds}
    for question, mask, measure in in_time(questions(ground.steps), end, "cases"):
        began = time.perf_counter()
        case = {"question": question, "mask": str(mask), **measure(lab, mask)}
        cases.append(case | {"seconds": round(time.perf_counter() - began, 1)})
        print(line(case), flush=True)
        exact = sorted(lab.ran.get(EXACT, ()))
        with contextlib.redirect_stdout(None):
            record.save(f"quality-eight-bits-{machine}", cases, **about, exact_backends=exact)
    if cases:
        print(f"Written: results/quality-eight-bits-{machine}.json, exact by {exact}")


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="  %(message)s")
    main()
