"""A case of the zoo: a tiny model of one kind, and something to sample with it."""

import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import comfy.clip_vision
import comfy.model_base
import comfy.sd
import comfy.utils
import torch
from comfy.ops import disable_weight_init

import nodes

ON_PAPER = {"operations": disable_weight_init, "device": "meta", "dtype": torch.float32}


@dataclass(frozen=True)
class Inputs:
    """The inputs of a sampler besides the model: CONDITIONING twice, LATENT, guidance."""

    positive: list
    negative: list
    latent: dict
    cfg: float = 1.0


@dataclass(frozen=True)
class Case:
    """A kind of model, inputs to sample with, and a description of its attention calls.

    kind: the class in comfy.model_base that ComfyUI must choose for the weights.
    grid: frames, height and width of the video in patches.
    around: tokens before and after the video's, for each kind of pass.
    calls: self-attention calls over the video in a pass, for each block.
    others: other calls of a pass that reach the hook: what they attend to -> how many.
    needs: a module that ComfyUI must have.
    given: first frames that the conditions replace, so that the latent says nothing of them.
    typical: whether it stands for its family where a test needs one case of each.
    trains: whether this ComfyUI can train it, without our patch too.
    """

    name: str
    kind: str
    model: Callable
    inputs: Callable[[], Inputs]
    grid: tuple[int, int, int]
    around: Sequence[tuple[int, int]] = ((0, 0),)
    calls: Sequence[int] = (1, 1)
    others: dict[str, int] = field(default_factory=dict)
    needs: str = "comfy"
    given: int = 0
    typical: bool = False
    trains: bool = True

    @property
    def is_there(self) -> bool:
        """Whether this ComfyUI has what the case needs."""
        module = importlib.util.find_spec(self.needs)
        return module is not None and hasattr(comfy.model_base, self.kind)


@dataclass(frozen=True)
class Named:
    """A model that the preview has by name.

    network: () -> ComfyUI's class at its real size, ON_PAPER, as comfy.model_detection reads it off
    the weights. empty_latent: ComfyUI's node for it. values: what else that node takes.
    """

    network: Callable
    empty_latent: type
    values: dict = field(default_factory=dict)

    def latent(self, width: int, height: int, length: int) -> dict:
        size = {"width": width, "height": height, "length": length, "batch_size": 1}
        outputs = self.empty_latent.execute(**size, **self.values).args
        return next(each for each in outputs if isinstance(each, dict))


def load(network, config: dict | None = None, seed: int = 0):
    """A MODEL, loaded as from a file: ComfyUI reads its class and sizes from the weights.

    network: ComfyUI's class, built ON_PAPER. config: from the file's metadata.
    """
    metadata = {"config": json.dumps({"transformer": config})} if config else None
    return comfy.sd.load_diffusion_model_state_dict(weights_of(network, seed), metadata=metadata)


def weights_of(network, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights: matrices preserve the scale of their input, norms are near one."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, x in network.state_dict().items():
        noise = torch.randn(x.shape, generator=generator)
        if x.numel() > max(x.shape):
            weights[name] = noise * x[0].numel() ** -0.5
        else:
            weights[name] = 0.1 * noise + (not name.endswith("bias"))
    return weights


def normal(*shape, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pictures(number: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """IMAGE (n, h, w, 3)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(number, height, width, 3, generator=generator)


def prompt(tokens: int, width: int, seed: int = 0, **values) -> list:
    """CONDITIONING with a random text (1, tokens, width)."""
    return [[normal(1, tokens, width, seed=seed), values]]


def clip_vision(tokens: int = 257, width: int = 1280, seed: int = 0):
    """CLIP_VISION_OUTPUT with random features (1, tokens, width)."""
    output = comfy.clip_vision.Output()
    output.penultimate_hidden_states = normal(1, tokens, width, seed=seed)
    output.last_hidden_state = output.penultimate_hidden_states
    return output


def sample(model, inputs: Inputs, steps: int = 2, latent: dict | None = None, **options):
    """ComfyUI's KSampler: the samples (b, c, f, h, w), or (b, 1, n) if they are video and sound.

    latent: instead of the inputs' own.
    """
    (out,) = nodes.common_ksampler(
        model,
        1,
        steps,
        inputs.cfg,
        "euler",
        "simple",
        inputs.positive,
        inputs.negative,
        latent or inputs.latent,
        **options,
    )
    samples = out["samples"]
    return comfy.utils.pack_latents(samples.unbind())[0] if samples.is_nested else samples
