"""A LoRA for longer videos, trained by ComfyUI's own node "Train LoRA"."""

import importlib
import time
from dataclasses import dataclass

import codec
import model as lab_model
import torch
import video
from lab import override_of, radial, radial_node

RANK = 128
LEARNING_RATE = 5e-3
LAYERS = "q, k, v, o"
TRAINING_SEED = 3_000_000  # the first; used neither for the model's training nor for validation
CLIPS_AT_ONCE = 8
ALL_BLOCKS = 10_000


@dataclass(frozen=True)
class Attention:
    """How a MODEL's self-attention runs: the paper's recipe for longer videos.

    dense_blocks: the paper has two of 30 to 60, so one of the lab's eight is a larger share.
    """

    radial: bool
    dense_blocks: int = 1
    decay: float = 1.0
    sink_frames: int = 1
    block_size: int = 128

    def on(self, model):
        """The MODEL with this attention, by the node. Dense calls run the fastest exact kernel."""
        return radial(
            model,
            dense_blocks=self.dense_blocks if self.radial else ALL_BLOCKS,
            sink_frames=self.sink_frames,
            decay=self.decay,
            block_size=self.block_size,
        )

    def ran(self, model) -> str:
        """The kernel that ran in the last run of a MODEL from `on`.

        Raises RuntimeError if the wrong kind of attention ran.
        """
        run = override_of(model).runs[-1].read()
        others = run["totals"]["dense_calls"].keys() - {"dense block"}
        short = all("would be kept" in why for why in others)  # too short for a sparse mask
        if run["failures"] or not short or (run["backend"] and not self.radial):
            raise RuntimeError(f"radial is {self.radial}, but what ran is {run['totals']}")
        return run["backend"] or ", ".join(run["dense_backends"]) or "ComfyUI's dense"


def training_clips(size: lab_model.Size, count: int, device: torch.device) -> torch.Tensor:
    """The "samples" of a LATENT with `count` clips: bfloat16, on the CPU."""
    parts = []
    for first in range(0, count, CLIPS_AT_ONCE):
        number = min(CLIPS_AT_ONCE, count - first)
        clips = video.clips(TRAINING_SEED + first, number, *size.pixels, device)
        parts.append(codec.to_comfy(codec.encode(clips)).to("cpu", torch.bfloat16))
    return torch.cat(parts)


def tune(
    model,
    attention: Attention,
    samples: torch.Tensor,
    steps: int,
    batch: int,
    rank: int = RANK,
    learning_rate: float = LEARNING_RATE,
    seed: int = 0,
) -> tuple[dict, dict]:
    """A LORA_MODEL tuned with this attention, and figures: seconds a step, losses.

    samples: from `training_clips`; the node draws from them at random.
    """
    import comfy.utils
    from comfy_extras.nodes_train import TrainLoraNode

    pack = radial_node().__module__.removesuffix(".nodes.patch")
    layers = importlib.import_module(f"{pack}.nodes.train_layers").RadialTrainLayers
    model = attention.on(model)
    given = dict(
        model=layers.execute(model, LAYERS).args[0],
        latents={"samples": samples},
        positive=lab_model.conditioning(),
        batch_size=batch,
        grad_accumulation_steps=1,
        steps=steps,
        learning_rate=learning_rate,
        rank=rank,
        optimizer="AdamW",
        loss_function="MSE",
        seed=seed,
        training_dtype="bf16",
        lora_dtype="fp32",  # bfloat16 would round steps this small to nothing
        quantized_backward=False,
        algorithm="LoRA",
        gradient_checkpointing=False,
        checkpoint_depth=2,
        offloading=False,
        existing_lora="[None]",
        bucket_mode=False,
        bypass_mode=False,
    )
    ends = []
    comfy.utils.set_progress_bar_enabled(False)
    comfy.utils.set_progress_bar_global_hook(lambda *_, **__: ends.append(time.perf_counter()))
    start = time.perf_counter()
    try:
        torch.manual_seed(seed)  # for the adapters, and for the clip and noise level of each step
        lora, losses, _ = TrainLoraNode.execute(**{name: [x] for name, x in given.items()}).args
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
    seconds = time.perf_counter() - start
    spans = [b - a for a, b in zip(ends, ends[1:], strict=False)]
    few = max(1, steps // 5)
    losses = losses["loss"]
    return lora, {
        "tuning_steps": steps,
        "tuning_batch": batch,
        "tuning_kernel": attention.ran(model),
        "tuning_s": round(seconds, 1),
        "tuning_s_a_step": round(sorted(spans)[len(spans) // 2], 4) if spans else None,
        "training_loss": [round(sum(x) / few, 5) for x in (losses[:few], losses[-few:])],
    }


def with_lora(model, lora: dict):
    """The MODEL with a LORA_MODEL, as from the node "Load LoRA Model"."""
    from comfy_extras.nodes_train import LoraModelLoader

    return LoraModelLoader.execute(model, lora, 1.0).args[0]
