"""What each model family's attention calls look like: the one place that knows.

A model joins by a line in FAMILIES: where its head_dim stands, where the video stands in the
sequence of its self-attention, its authors' settings, and how much work its blocks are.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from ...radial_core import VideoLayout
from ...radial_core.estimate import ModelSize
from ..inputs.settings import (
    HUMO,
    HUNYUAN_VIDEO,
    HUNYUAN_VIDEO_15,
    MOCHI,
    WAN_21,
    WAN_22,
    WAN_22_5B,
    Preset,
)


@dataclass(frozen=True)
class TokenLayout:
    """The sequence of a forward pass's self-attention calls.

    grid: frames, height and width of the video in patches. before, after: other tokens in front of
    the video and behind it; None for all that is left, as is text of any length. others: lengths of
    the sequences that the video attends to besides itself. announced: whether the model says which
    block it is in; else its calls are counted, which is right as long as no block is skipped.
    double_blocks: how many of those come before the single-stream ones. calls_of_block: index ->
    self-attention calls over the video, of blocks that make more than one.

    Raises ValueError if before and after are both None.
    """

    grid: tuple[int, int, int]
    before: int | None = 0
    after: int | None = 0
    others: frozenset[int] = frozenset()
    announced: bool = True
    double_blocks: int = 0
    calls_of_block: Mapping[int, int] = field(default_factory=dict)

    def __post_init__(self):
        if self.before is None and self.after is None:
            raise ValueError("before and after can't both be all that is left")

    def layout(self, tokens: int) -> VideoLayout | None:
        """Where the video stands in a call of so many tokens; None if it doesn't fit."""
        rest = tokens - math.prod(self.grid)
        before = rest - self.after if self.before is None else self.before
        after = rest - before if self.after is None else self.after
        if before < 0 or after < 0 or before + after != rest:
            return None
        return VideoLayout(*self.grid, before, after)


def unwrapped(diffusion_model):
    """The model itself; torch.compile's wrapping taken off."""
    return getattr(diffusion_model, "_orig_mod", diffusion_model)


def _patches(latent, patch_size) -> tuple[int, ...]:
    """The grid of a latent (..., f, h, w), padded to whole patches."""
    sizes = latent.shape[-len(patch_size) :]
    return tuple(-(-n // p) for n, p in zip(sizes, patch_size, strict=True))


def _tokens(latent, patch_size) -> int:
    return 0 if latent is None else math.prod(_patches(latent, patch_size))


def _whole_patches(latent, patch_size) -> int:
    """Tokens of a latent that is not padded."""
    if latent is None:
        return 0
    sizes = latent.shape[-len(patch_size) :]
    return math.prod(n // p for n, p in zip(sizes, patch_size, strict=True))


def _texts(c_crossattn, conditions: dict) -> frozenset[int]:
    """Lengths of what Wan's cross-attention sees: text, and images apart or one after another."""
    images = [conditions.get(name) for name in ("clip_fea", "clip_fea_ref")]
    lengths = [x.shape[-2] for x in (c_crossattn, *images) if x is not None]
    return frozenset((*lengths, sum(x.shape[-2] for x in images if x is not None)))


def _wan(model, x, c_crossattn, conditions: dict, before: int = 0, after: int | None = 0):
    """Most of Wan: [reference] video [reference frames]."""
    patch = model.patch_size
    if model.ref_conv is not None:
        before += _whole_patches(conditions.get("reference_latent"), patch[1:])
    if after is not None:
        after += _tokens(conditions.get("time_dim_concat"), patch)
    others = _texts(c_crossattn, conditions)
    return TokenLayout(_patches(x, patch), before, after, others)


def _wan_in_context(model, x, c_crossattn, conditions: dict) -> TokenLayout:
    """Wan's plain class: also latents for context, behind all else."""
    context = conditions.get("context_latents") or ()
    after = sum(_tokens(latent, model.patch_size) for latent in context)
    return _wan(model, x, c_crossattn, conditions, after=after)


def _wan_vace(model, x, c_crossattn, conditions: dict) -> TokenLayout:
    """VACE: blocks beside the main ones run with the index of the one before, once a context."""
    contexts = conditions.get("vace_context")
    contexts = 1 if contexts is None else contexts.shape[1]
    calls = {index: 1 + contexts for index in model.vace_layers_mapping}
    return replace(_wan(model, x, c_crossattn, conditions), calls_of_block=calls)


def _wan_s2v(model, x, c_crossattn, conditions: dict) -> TokenLayout:
    """Wan S2V: video [reference] [motion, the further back the coarser]."""
    return _wan(model, x, c_crossattn, conditions, after=None)


def _humo(model, x, c_crossattn, conditions: dict) -> TokenLayout:
    """HuMo: video [reference]."""
    reference = _whole_patches(conditions.get("reference_latent"), model.patch_size)
    return _wan(model, x, c_crossattn, conditions, after=reference)


def _scail(model, x, c_crossattn, conditions: dict) -> TokenLayout:
    """SCAIL: [references] video [pose, often at half the size]."""
    reference, pose = (
        _tokens(conditions.get(name), model.patch_size)
        for name in ("reference_latent", "pose_latents")
    )
    return _wan(model, x, c_crossattn, conditions, reference, pose)


def _hunyuan(model, x, c_crossattn, conditions: dict) -> TokenLayout:
    """HunyuanVideo: text [reference] video."""
    grid = _patches(x, model.patch_size)
    return TokenLayout(grid, before=None, double_blocks=len(model.double_blocks))


def _mochi(model, x, c_crossattn, conditions: dict) -> TokenLayout:
    """Mochi: video text."""
    grid = _patches(x, (1, model.patch_size, model.patch_size))
    return TokenLayout(grid, after=None, announced=False)


def _wan_authors(model) -> Preset:
    """Whose settings fit; see also `authors_of`."""
    if model.out_dim == 48:
        return WAN_22_5B
    return WAN_22 if model.in_dim > 16 and model.img_emb is None else WAN_21


def _wan_size(model) -> tuple[int, int]:
    """Self-attention's q, k, v and o, cross-attention's q and o, and a feed-forward of two layers.

    Of VACE, with one input for it. What S2V, HuMo and Animate have besides is little.
    """
    blocks = len(model.blocks) + len(getattr(model, "vace_blocks", ()))
    return blocks, 6 * model.dim**2 + 2 * model.dim * model.ffn_dim


def _hunyuan_size(model) -> tuple[int, int]:
    """Double and single blocks pass a token through as many weights, each in its own order."""
    width = model.hidden_size
    feed_forward = int(width * model.params.mlp_ratio)
    blocks = len(model.double_blocks) + len(model.single_blocks)
    return blocks, 4 * width**2 + 2 * width * feed_forward


def _mochi_size(model) -> tuple[int, int]:
    """The feed-forward is gated: two layers in, one out."""
    width, feed_forward = model.hidden_size_x, model.blocks[0].mlp_x.hidden_dim
    return len(model.blocks), 4 * width**2 + 3 * width * feed_forward


@dataclass(frozen=True)
class Family:
    """What there is to know of a class of models.

    sequence: (model, x, c_crossattn, conditions) -> TokenLayout. authors: model -> Preset. size:
    model -> transformer blocks, and weights of one that a video token passes. blocks: their
    classes, in the order in which they run.
    """

    sequence: Callable
    authors: Callable
    head_dim: Callable = lambda model: model.dim // model.num_heads
    size: Callable = _wan_size
    blocks: tuple[str, ...] = ("WanAttentionBlock",)


_WAN, _GENMO = "comfy.ldm.wan", "comfy.ldm.genmo.joint_model"
FAMILIES = {
    f"{_WAN}.model.WanModel": Family(_wan_in_context, _wan_authors),
    f"{_WAN}.model.VaceWanModel": Family(_wan_vace, lambda model: WAN_21),
    f"{_WAN}.model.CameraWanModel": Family(_wan, _wan_authors),
    f"{_WAN}.model.WanModel_S2V": Family(_wan_s2v, lambda model: WAN_22),
    f"{_WAN}.model.HumoWanModel": Family(_humo, lambda model: HUMO),
    f"{_WAN}.model.SCAILWanModel": Family(_scail, lambda model: WAN_21),
    f"{_WAN}.model.SCAIL2WanModel": Family(_scail, lambda model: WAN_21),
    f"{_WAN}.model_animate.AnimateWanModel": Family(_wan, lambda model: WAN_22),
    f"{_WAN}.model_wandancer.WanDancerModel": Family(_wan, lambda model: WAN_22),
    f"{_WAN}.ar_model.CausalWanModel": Family(_wan_in_context, lambda model: WAN_21),
    "comfy.ldm.hunyuan_video.model.HunyuanVideo": Family(
        _hunyuan,
        lambda model: HUNYUAN_VIDEO if model.vision_in is None else HUNYUAN_VIDEO_15,
        lambda model: model.hidden_size // model.num_heads,
        _hunyuan_size,
        ("DoubleStreamBlock", "SingleStreamBlock"),
    ),
    f"{_GENMO}.asymm_models_joint.AsymmDiTJoint": Family(
        _mochi,
        lambda model: MOCHI,
        lambda model: model.head_dim,
        _mochi_size,
        ("AsymmetricJointBlock",),
    ),
}


def class_name(diffusion_model) -> str:
    """The class of a diffusion model, as module.Class."""
    kind = type(unwrapped(diffusion_model))
    return f"{kind.__module__}.{kind.__qualname__}"


def family_of(diffusion_model) -> Family | None:
    return FAMILIES.get(class_name(diffusion_model))


def head_dim_of(diffusion_model) -> int | None:
    """head_dim of a model's self-attention; None if the model is not known."""
    family = family_of(diffusion_model)
    return family and family.head_dim(unwrapped(diffusion_model))


def size_of(diffusion_model) -> ModelSize | None:
    """The work of a model's blocks on the video; None if the model is not known.

    Text passes weights of its own in some models; next to the video it is little, and left out.
    """
    family = family_of(diffusion_model)
    if family is None:
        return None
    model = unwrapped(diffusion_model)
    blocks, weights = family.size(model)
    return ModelSize(blocks, model.num_heads, family.head_dim(model), 2.0 * blocks * weights)


def authors_of(diffusion_model, runs_all: bool) -> Preset:
    """The authors' settings of a known model. runs_all: whether it runs the whole noise schedule.

    The experts of Wan 2.2 T2V can't be told from Wan 2.1, but that each runs a part of it.
    """
    authors = family_of(diffusion_model).authors(unwrapped(diffusion_model))
    return WAN_22 if authors is WAN_21 and not runs_all else authors


def sequence_of(diffusion_model, x, c_crossattn, conditions: dict) -> TokenLayout:
    """The sequence of a forward pass over a video, of a known model.

    x: the latent (b, c, f, h, w). c_crossattn, conditions: what BaseModel.apply_model gets besides.
    """
    family = family_of(diffusion_model)
    return family.sequence(unwrapped(diffusion_model), x, c_crossattn, conditions)
