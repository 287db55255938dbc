"""ComfyUI's training step of a LoRA, as its node "Train LoRA" runs it, and the time of its parts.

It uses that node's own sampler, guider, adapters, checkpoints and optimizer, with every transformer
block a checkpoint, on the layers that our node "Radial Train Layers" chooses: q, k, v and o.
"""

import importlib
import time
from contextlib import contextmanager

import comfy.model_management
import comfy.utils
import torch
from comfy_extras import nodes_train
from end_to_end_models import PACK
from end_to_end_networks import VideoModel
from end_to_end_timing import now

DTYPE = torch.bfloat16
LAYERS = "q, k, v, o"
PER_BLOCK = 2  # "Train LoRA"'s checkpoint_depth; at 1 the whole model is one checkpoint
HIDDEN = ("img", "txt")  # a block's hidden states, where they are passed by name
LEARNING_RATE = 1e-4


def add_lora(patcher, rank: int):
    """A MODEL with new adapters, and their parameters by name."""
    chosen_weights = importlib.import_module(f"{PACK}.nodes.training.layers").chosen_weights
    chosen = chosen_weights(patcher.model.diffusion_model, LAYERS)
    patcher, parameters = patcher.clone(), {}
    patcher.set_model_compute_dtype(DTYPE)
    patcher.model.requires_grad_(False).train()
    torch.manual_seed(0)
    for name, module in patcher.model.named_modules():
        if f"{name}.weight" not in chosen:
            continue
        adapter, added = nodes_train._create_weight_adapter(module, name, {}, "LoRA", DTYPE, rank)
        patcher.add_weight_wrapper(f"{name}.weight", adapter)
        parameters |= {key: x for key, x in added.items() if not key.endswith("alpha")}
    return patcher, parameters


def optimizer_of(parameters: dict) -> torch.optim.Optimizer:
    return nodes_train._create_optimizer("AdamW", parameters.values(), LEARNING_RATE)


class _Clocked(nodes_train.TrainSampler):
    """ComfyUI's training sampler, which records the time and loss of each step."""

    def fwd_bwd(self, *args, **kwargs):
        self.watch.reset()
        start = now(self.watch.device)
        loss = super().fwd_bwd(*args, **kwargs)
        seconds = now(self.watch.device) - start
        self.found.append({"s": seconds, "loss": loss.item(), "blocks": self.watch.seconds()})
        return loss


def train(patcher, optimizer, video: VideoModel, latent, watch: "Watch", steps: int = 1) -> dict:
    """Run training steps on one video. Returns seconds and loss of each, and on a GPU peak bytes.

    watch: the one that wraps the model's blocks.
    """
    device = watch.device
    random = torch.Generator().manual_seed(0)
    samples = torch.randn((1, video.channels, *latent), generator=random).to(DTYPE)
    text = torch.randn((1, *video.text), generator=random)
    extras = {
        name: torch.randn(shape, generator=random) for name, shape in video.conditions.items()
    }
    sampler = _Clocked(torch.nn.MSELoss(), optimizer, batch_size=1, total_steps=steps, seed=0)
    sampler.watch, sampler.found = watch, []
    guider = nodes_train.TrainGuider(patcher)
    guider.set_conds([[text, extras]])
    times = []
    hooks = [
        optimizer.register_step_pre_hook(lambda *_: times.append(now(device))),
        optimizer.register_step_post_hook(lambda *_: times.append(now(device))),
    ]
    comfy.utils.set_progress_bar_enabled(False)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    comfy.model_management.in_training = True
    try:
        nodes_train._run_training_loop(guider, sampler, samples, 1, 0, False, False)
    finally:
        comfy.model_management.in_training = False
        for hook in hooks:
            hook.remove()
    for run, first, last in zip(sampler.found, times[::2], times[1::2], strict=True):
        run["optimizer_s"] = last - first
    found = {"steps": sampler.found}
    if device.type == "cuda":
        found["peak"] = torch.cuda.max_memory_allocated(device)
        found["weights"] = sum(x.numel() * x.element_size() for x in patcher.model.parameters())
    return found


class Watch:
    """Records when each transformer block ran in a step, forward and backward.

    The backward of a checkpointed block includes a second forward.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.reset()

    def reset(self):
        self._runs = []

    def mark(self):
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self) -> dict[str, list[tuple[float, float]]]:
        """Forward and backward seconds of each block, by the name of its list."""
        now(self.device)
        found = {}
        for name, marks in self._runs:
            spans = (marks["in"][0], marks["out"][0]), (marks["back in"][0], marks["back out"][-1])
            found.setdefault(name, []).append(tuple(self._between(*span) for span in spans))
        return found

    def _between(self, first, last) -> float:
        return last - first if self.device.type != "cuda" else first.elapsed_time(last) / 1e3

    def wrap(self, name: str, forward):
        def watched(*args, **kwargs):
            marks = {"in": [], "out": [], "back in": [], "back out": []}
            self._runs.append((name, marks))
            args, kwargs = _hidden(args, kwargs, lambda x: _Mark.apply(x, self, marks["back out"]))
            marks["in"].append(self.mark())
            out = forward(*args, **kwargs)
            marks["out"].append(self.mark())
            if isinstance(out, tuple):
                return tuple(_Mark.apply(x, self, marks["back in"]) for x in out)
            return _Mark.apply(out, self, marks["back in"])

        return watched


class _Mark(torch.autograd.Function):
    """Returns the tensor unchanged, and records when its gradient passes."""

    @staticmethod
    def forward(ctx, x, watch, marks):
        ctx.watch, ctx.marks = watch, marks
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        ctx.marks.append(ctx.watch.mark())
        return grad, None, None


@contextmanager
def checkpointed(net, names, watch: Watch | None = None):
    """Inside, every block and every other part of a model is a checkpoint, as in ComfyUI's node."""
    blocks = [(name, block) for name in names for block in getattr(net, name)]
    for name, block in blocks:
        if name != "blocks":
            block.forward = _on_copies(block.forward)
    parts = nodes_train.find_modules_at_depth(net, depth=PER_BLOCK)
    for part in parts:
        nodes_train.patch(part)
    if watch is not None:
        for name, block in blocks:
            block.forward = watch.wrap(name, block.forward)
    try:
        yield
    finally:
        for part in parts:
            vars(part).pop("forward", None)
            vars(part).pop("org_forward", None)


def _on_copies(forward):
    """HunyuanVideo's blocks change their input in place, but a checkpoint needs it unchanged."""

    def run(*args, **kwargs):
        args, kwargs = _hidden(args, kwargs, torch.clone)
        return forward(*args, **kwargs)

    return run


def _hidden(args: tuple, kwargs: dict, change):
    """The arguments of a block with its hidden states changed."""
    if args:
        return (change(args[0]), *args[1:]), kwargs
    return args, kwargs | {name: change(kwargs[name]) for name in HIDDEN if name in kwargs}
