"""What all rows of a comparison share at one size: the dense videos, and recorded calls."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property

import codec
import flow
import masks
import metrics
import model as lab_model
import sol
import torch
from grid import Mask, Row
from lab import override_of, radial
from masked import (
    Attention,
    Recorded,
    attention_error,
    by_head,
    by_plan,
    masked,
    oracle,
    plan_of,
    recorder,
)

from radial_core import Schedule, VideoLayout

RECORDED = (0.2, 0.5, 0.8)  # the steps whose calls are recorded, as shares of the schedule
RECORDED_SEEDS = 2
OTHER_SEEDS = 100_000  # the first seed of the videos for the mean masks
MEASURED_SEEDS = 1000  # the first seed of the videos that are compared
EDGE = 8  # an eighth of the picture's rows at the top, and at the bottom


@dataclass(eq=False)
class Ground:
    """The dense model at one size, and what was measured with it.

    model: a MODEL without patches. size: of the videos. seeds: the number of videos. found: a cache
    of measurements, for other rows with the same mask.
    """

    model: object
    size: lab_model.Size
    seeds: int
    steps: int
    device: torch.device
    found: dict = field(default_factory=dict)

    @property
    def layout(self) -> VideoLayout:
        patch = lab_model.PATCH
        return VideoLayout(self.size.frames, self.size.height // patch, self.size.width // patch)

    @property
    def layers(self) -> int:
        return len(self.model.model.diffusion_model.blocks)

    @cached_property
    def reference(self) -> torch.Tensor:
        """The dense model's videos, with ComfyUI's default attention."""
        return self.sample(self.model)

    @cached_property
    def calls(self) -> list[Recorded]:
        return self._recorded(MEASURED_SEEDS)

    @cached_property
    def validation(self) -> flow.Validation:
        return flow.validation(self.size, device=self.device)

    def sample(self, model) -> torch.Tensor:
        """Pixels (seeds, f, h, w, 3) on the device."""
        seeds = range(MEASURED_SEEDS, MEASURED_SEEDS + self.seeds)
        latents = lab_model.sample(model, seeds, self.size.latent, self.steps)
        return codec.decode(latents.to(self.device))

    def loss(self, model) -> float:
        """Flow-matching loss on clips that were not trained on."""
        levels = self.validation.through_comfy(model)
        return sum(levels) / len(levels)

    def why_missing(self, mask: Mask) -> str | None:
        return sol.why_not(self.device) if mask.method == "sol" else None

    def attention(self, mask: Mask) -> tuple[Attention, float]:
        """A function that computes attention with a mask, and the share of blocks that it keeps."""
        return self._once(("attention", mask), lambda: self._attention(mask))

    def error(self, mask: Mask) -> float:
        with torch.inference_mode():
            find = lambda: attention_error(self.attention(mask)[0], self.calls)  # noqa: E731
            return self._once(("error", mask), find)

    def masked_loss(self, row: Row) -> float:
        """The loss with the row's mask and dense blocks at every step."""
        blocks = row.schedule.dense_blocks
        always = Row(row.question, row.mask, Schedule(dense_blocks=blocks))
        return self._once(("loss", row.mask, blocks), lambda: self.loss(self.patched(always)))

    def patched(self, row: Row):
        """A MODEL that samples as in a row: a radial mask by the node, any other by a hook here."""
        if row.mask.method != "radial":
            attention = self.attention(row.mask)[0]
            return masked(self.model, attention, self.layout.tokens, row.schedule)
        return radial(
            self.model,
            **asdict(row.schedule),
            sink_frames=row.mask.sink_frames,
            decay=row.mask.decay,
            block_size=row.mask.block_size,
            dense_attention="comfyui",  # as in the reference
        )

    def measure(self, row: Row) -> dict:
        """Sample as in a row, and compare with the dense videos."""
        error, loss = self.error(row.mask), self.masked_loss(row)
        patched = self.patched(row)
        start = time.perf_counter()
        video = self.sample(patched)
        seconds = time.perf_counter() - start
        _, density = self.attention(row.mask)
        kept = kept_of_all(row, density, self.steps, self.layers)
        if row.mask.method == "radial":
            _check_that_it_ran(patched, row, self.steps, self.layers)
        return {
            "density": round(density, 4),
            "kept_flops": round(kept, 4),
            **likeness(video, self.reference),
            "attention_error": round(error, 5),
            "val_loss": round(loss, 5),
            "seconds": round(seconds, 2),
        }

    def _attention(self, mask: Mask) -> tuple[Attention, float]:
        size, layout = mask.block_size, self.layout
        kept = mask.block_map(layout)
        if kept is not None:
            order = masks.tile_order(layout, size) if mask.method == "tile" else None
            return by_plan(self._plan(kept, size), order), kept.float().mean().item()
        if mask.method == "sol":
            shares = [sol.density(call.q, call.k, mask.tau) for call in self.calls]
            return sol.sol(mask.tau), sum(shares) / len(shares)
        share = mask.keep / (layout.tokens // size)
        if mask.method == "oracle":
            return oracle(mask.keep, size), share
        mass = self._once(("mass", size), lambda: self._mean_mass(size))
        if mask.method == "mean_all":
            kept = masks.most_mass(mass.mean(dim=(0, 1)), mask.keep)
            return by_plan(self._plan(kept, size)), share
        kept = masks.most_mass(mass, mask.keep)
        return by_head([[self._plan(head, size) for head in layer] for layer in kept]), share

    def _plan(self, kept: torch.Tensor, block_size: int):
        return plan_of(kept, self.layout, block_size, self.device)

    def _mean_mass(self, block_size: int) -> torch.Tensor:
        """(layers, heads, blocks, blocks), on the CPU, of dense runs of other videos."""
        calls = self._once("other calls", lambda: self._recorded(OTHER_SEEDS))
        with torch.inference_mode():
            found = [
                torch.stack(
                    [
                        masks.block_mass(call.q, call.k, block_size).mean(dim=0)
                        for call in calls
                        if call.layer == layer
                    ]
                ).mean(dim=0)
                for layer in range(self.layers)
            ]
        return torch.stack(found).cpu().clone()

    def _recorded(self, first_seed: int) -> list[Recorded]:
        steps = {int(share * self.steps) for share in RECORDED}
        model, calls = recorder(self.model, self.layout.tokens, steps)
        seeds = range(first_seed, first_seed + RECORDED_SEEDS)
        lab_model.sample(model, seeds, self.size.latent, self.steps)
        return calls

    def _once(self, key, find: Callable):
        if key not in self.found:
            self.found[key] = find()
        return self.found[key]


def kept_of_all(row: Row, density: float, steps: int, layers: int) -> float:
    """The kept share of the self-attention's work, over all steps and blocks."""
    return 1 - (1 - density) * radial_calls(row, steps, layers) / (steps * layers)


def radial_calls(row: Row, steps: int, layers: int) -> int:
    """How many self-attention calls of one sampling are not dense."""
    schedule = row.schedule
    sparse = max(steps - schedule.dense_steps - schedule.dense_last_steps, 0)
    return sparse * max(layers - schedule.dense_blocks, 0)


def _check_that_it_ran(model, row: Row, steps: int, layers: int):
    ran, expected = override_of(model).runs[-1].radial_calls, radial_calls(row, steps, layers)
    if ran != expected:
        raise RuntimeError(f"{row}: expected {expected} radial calls, got {ran}")


def likeness(video: torch.Tensor, reference: torch.Tensor) -> dict:
    """The metrics of pixels (b, f, h, w, 3), as rounded means over the videos."""
    psnr = metrics.psnr(video, reference)  # (b, f)
    edge = video.shape[2] // EDGE
    edges = torch.cat([torch.arange(edge), torch.arange(edge) - edge])
    steady = metrics.consistency(video)
    by_seed = psnr.mean(dim=1)
    return {
        "psnr": _mean(by_seed, 3),
        "psnr_std": round(by_seed.std().item(), 3),
        "psnr_of_seeds": [round(x, 3) for x in by_seed.tolist()],
        "psnr_of_frames": [round(x, 2) for x in psnr.mean(dim=0).tolist()],
        "psnr_worst_frame": _mean(psnr.amin(dim=1), 3),
        "psnr_edges": _mean(metrics.psnr(video[:, :, edges], reference[:, :, edges]), 3),
        "ssim": _mean(metrics.ssim(video, reference), 5),
        "lpips_like": _mean(metrics.lpips_like(video, reference), 5),
        "consistency": _mean(steady, 5),
        "consistency_change": _mean(steady - metrics.consistency(reference), 5),
    }


def _mean(x: torch.Tensor, digits: int) -> float:
    return round(x.mean().item(), digits)
