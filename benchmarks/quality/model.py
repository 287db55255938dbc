"""The lab's video model: ComfyUI's own Wan class, small, loaded and run by ComfyUI itself.

    size.pixels                         (frames, height, width) of its clips
    load(path) -> MODEL                 as the node "Load Diffusion Model" would
    sample(model, seeds, size.latent)   -> lab latents, by ComfyUI's sampler; codec.decode them
    resume(model, clean, noise, ...)    -> the same, from a video with noise on it

Scripts of this folder get what is in benchmarks/ from lab.py (`from lab import record,
start_comfyui`), and import codec, model and video directly. Call `start_comfyui(folder)` before
anything here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import codec
import torch

CHECKPOINT = Path("/tmp/radial-quality/model.safetensors")
HEAD_DIM = 128
FFN = 4  # times the width
TEXT_DIM = 4096
PATCH = 2  # width and height of a token, in latent pixels
# Of the noise schedule: sigma = SHIFT t / (1 + (SHIFT - 1) t), t uniform in 0..1. The same for
# training and sampling.
SHIFT = 3.0
STEPS = 30


@dataclass(frozen=True)
class Size:
    """Of a model and its videos. dim: the network's width. frames, height, width: of the latent."""

    layers: int
    dim: int
    frames: int
    height: int
    width: int

    @property
    def latent(self) -> tuple[int, int, int]:
        return self.frames, self.height, self.width

    @property
    def pixels(self) -> tuple[int, int, int]:
        return self.frames, codec.BLOCK * self.height, codec.BLOCK * self.width

    @property
    def frame_tokens(self) -> int:
        return (self.height // PATCH) * (self.width // PATCH)

    @property
    def tokens(self) -> int:
        return self.frames * self.frame_tokens

    def longer(self, times: int) -> "Size":
        return replace(self, frames=times * self.frames)


LAB = Size(layers=8, dim=768, frames=16, height=32, width=64)  # 16 x 512 = 8192 tokens
TINY = Size(layers=2, dim=256, frames=4, height=8, width=16)  # for a CPU


def build(size: Size, device: torch.device | str = "cpu", seed: int = 0) -> torch.nn.Module:
    """A WanModel to train: float32, initialized as in Wan's own code."""
    import comfy.ops
    from comfy.ldm.wan.model import WanModel

    net = WanModel(
        dim=size.dim,
        ffn_dim=FFN * size.dim,
        num_heads=size.dim // HEAD_DIM,
        num_layers=size.layers,
        text_dim=TEXT_DIM,
        in_dim=codec.CHANNELS,
        out_dim=codec.CHANNELS,
        device=device,
        dtype=torch.float32,
        operations=comfy.ops.disable_weight_init,
    )
    random = torch.Generator(device).manual_seed(seed)
    with torch.no_grad():
        for name, x in net.named_parameters():
            _draw(name, x, random)
    return net.train().requires_grad_(True)


def _draw(name: str, x: torch.Tensor, random: torch.Generator):
    """Initialize a weight: ComfyUI's layers are created with uninitialized memory."""
    if name.endswith("modulation"):
        x.normal_(0, x.shape[-1] ** -0.5, generator=random)
    elif name.startswith("head.head") or name.endswith("bias"):
        x.zero_()
    elif x.ndim == 1:  # of a norm
        x.fill_(1)
    elif name.startswith(("text_embedding", "time_embedding")):
        x.normal_(0, 0.02, generator=random)
    else:
        torch.nn.init.xavier_uniform_(x.flatten(1), generator=random)


def save(weights: dict[str, torch.Tensor], path: Path):
    """Save a WanModel's state dict as a checkpoint that ComfyUI loads as Wan 2.1 T2V."""
    import comfy.utils

    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {key: x.detach().cpu().contiguous() for key, x in weights.items()}
    comfy.utils.save_torch_file(weights, str(path))


def load(path: Path, dtype: torch.dtype | None = None):
    """A MODEL (ModelPatcher) from a checkpoint, with the shift that it was trained with.

    dtype: of weights and computation; None for bfloat16 on a GPU, else float32. Raises
    FileNotFoundError without a checkpoint.
    """
    import comfy.model_base
    import comfy.sd

    if not Path(path).exists():
        raise FileNotFoundError(f"No checkpoint {path}: run benchmarks/quality/train.py first")
    if dtype is None:
        dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    model = comfy.sd.load_diffusion_model(str(path), model_options={"dtype": dtype})
    # As the node ModelSamplingSD3 does.
    sampling = comfy.model_base.model_sampling(model.model.model_config, model.model.model_type)
    sampling.set_parameters(shift=SHIFT)
    model.add_object_patch("model_sampling", sampling)
    return model


def conditioning() -> list:
    """CONDITIONING of the only prompt that the model knows: one empty token."""
    return [[torch.zeros(1, 1, TEXT_DIM), {}]]


def noise(seeds: Sequence[int], latent: tuple[int, int, int]) -> torch.Tensor:
    """Noise (b, 16, f, h, w), one seed a video, drawn on the CPU: independent of the batch."""

    def one(seed: int) -> torch.Tensor:
        random = torch.Generator().manual_seed(seed)
        return torch.randn((codec.CHANNELS, *latent), generator=random)

    return torch.stack([one(seed) for seed in seeds])


def sample(
    model,
    seeds: Sequence[int],
    latent: tuple[int, int, int],
    steps: int = STEPS,
    sampler: str = "euler",
    scheduler: str = "simple",
) -> torch.Tensor:
    """ComfyUI's sampler, all seeds in one batch, cfg 1 (one pass a step).

    latent: frames, height, width of the latent. Returns lab latents (b, 16, f, h, w), float32, on
    the CPU.
    """
    start = noise(seeds, latent)
    return _run(model, start, torch.zeros_like(start), steps, sampler, scheduler)


def resume(
    model, clean: torch.Tensor, noise: torch.Tensor, steps: int, first_step: int
) -> torch.Tensor:
    """Sample from a step on as `sample` does, from a video with the noise of that step on it.

    clean: lab latents. noise: of that shape. first_step: 0 to steps - 1; at step 0 nothing is left
    of the video. Patches on the model see the steps that run, not those before. Returns lab latents
    (b, 16, f, h, w), float32, on the CPU.
    """
    from comfy.samplers import calculate_sigmas

    sigmas = calculate_sigmas(model.get_model_object("model_sampling"), "simple", steps)
    return _run(model, noise.cpu(), clean.cpu(), steps, "euler", "simple", sigmas[first_step:])


def loss(model, clean: torch.Tensor, start: torch.Tensor, sigma: float) -> torch.Tensor:
    """Mean squared error of a MODEL's velocity at one sigma: (b,), on the CPU.

    clean: lab latents. start: noise of that shape. It runs one Euler step of ComfyUI's sampler from
    sigma to 0, so patches on the model apply (a radial patch needs dense_steps 0 and
    dense_last_steps 0).
    """
    guess = _run(model, start.cpu(), clean.cpu(), 1, "euler", "simple", torch.tensor([sigma, 0.0]))
    # noise - clean is the velocity; noisy - sigma velocity is clean.
    return ((guess - clean.cpu()) / sigma).square().mean(dim=(1, 2, 3, 4))


def _run(model, start, clean, steps, sampler, scheduler, sigmas=None) -> torch.Tensor:
    import comfy.sample

    prompt = conditioning()
    image = codec.to_comfy(clean) if clean.any() else clean  # to ComfyUI, zeros mean no image
    with torch.inference_mode():
        out = comfy.sample.sample(
            *(model, start, steps, 1.0, sampler, scheduler, prompt, prompt, image),
            sigmas=sigmas,
            disable_pbar=True,
            seed=0,
        )
    return codec.from_comfy(out.float().cpu())
