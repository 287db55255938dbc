"""Wan 2.1 and 2.2, and the models that were built on them.

The video stands alone in the sequence, or with reference and context tokens. Text is in the
cross-attention. Presets: the paper (arXiv 2506.19852, tables 1 to 3 and appendix) and the scripts
of its released code for Wan 2.1 and 2.2; the 5B model and HuMo have those of the nearest one.
"""

import math
from dataclasses import replace

from .base import (
    BlockList,
    Family,
    ModelClass,
    Preset,
    TokenLayout,
    VideoModel,
    lengths,
    model_size,
    patches,
)

WAN_21 = Preset("Wan 2.1", 21, 0.2)
WAN_22 = Preset("Wan 2.2", 21, 0.8)
WAN_22_5B = Preset("Wan 2.2 5B", 31, 0.8)
HUMO = Preset("HuMo", 25, 0.2)


def _tokens(latent, patch_size) -> int:
    return 0 if latent is None else math.prod(patches(latent, patch_size))


def _whole_patches(latent, patch_size) -> int:
    """Tokens of a latent that is not padded."""
    if latent is None:
        return 0
    sizes = latent.shape[-len(patch_size) :]
    return math.prod(n // p for n, p in zip(sizes, patch_size, strict=True))


def _cross_attention_lengths(c_crossattn, conditions: dict) -> frozenset[int]:
    """Of text and images, which come one by one or joined."""
    images = [conditions.get(name) for name in ("clip_fea", "clip_fea_ref")]
    joined = sum(x.shape[-2] for x in images if x is not None)
    return lengths(c_crossattn, *images) | {joined}


def _most(model, x, c_crossattn, conditions: dict, before: int = 0, after: int | None = 0):
    """[reference] video [reference frames]."""
    patch = model.patch_size
    if model.ref_conv is not None:
        before += _whole_patches(conditions.get("reference_latent"), patch[1:])
    if after is not None:
        after += _tokens(conditions.get("time_dim_concat"), patch)
    others = _cross_attention_lengths(c_crossattn, conditions)
    return TokenLayout(patches(x, patch), before, after, others)


def _in_context(model, x, c_crossattn, conditions: dict) -> TokenLayout:
    """As most, then the context latents, behind everything else."""
    context = conditions.get("context_latents") or ()
    after = sum(_tokens(latent, model.patch_size) for latent in context)
    return _most(model, x, c_crossattn, conditions, after=after)


def _vace(model, x, c_crossattn, conditions: dict) -> TokenLayout:
    """VACE's own blocks run beside the main ones, with the main block's index, once a context."""
    contexts = conditions.get("vace_context")
    contexts = 1 if contexts is None else contexts.shape[1]
    calls = {index: 1 + contexts for index in model.vace_layers_mapping}
    return replace(_most(model, x, c_crossattn, conditions), calls_of_block=calls)


def _s2v(model, x, c_crossattn, conditions: dict) -> TokenLayout:
    """Video [reference] [motion, the further back the coarser]."""
    return _most(model, x, c_crossattn, conditions, after=None)


def _humo(model, x, c_crossattn, conditions: dict) -> TokenLayout:
    """Video [reference]."""
    reference = _whole_patches(conditions.get("reference_latent"), model.patch_size)
    return _most(model, x, c_crossattn, conditions, after=reference)


def _scail(model, x, c_crossattn, conditions: dict) -> TokenLayout:
    """[References] video [pose, often at half the size]."""
    reference, pose = (
        _tokens(conditions.get(name), model.patch_size)
        for name in ("reference_latent", "pose_latents")
    )
    return _most(model, x, c_crossattn, conditions, reference, pose)


def _split(call: dict, share) -> dict:
    """x: tokens; in VACE's own blocks those of the main ones, beside their c. e: modulation by the
    timestep, (b, 6, c) or (b, rows, 6, c), each row for a run of tokens."""
    freqs, e = call["freqs"], call["e"]
    share.begin(freqs.shape[1])
    split = {name: share.tokens(call[name], 1) for name in ("x", "c") if name in call}
    if e.ndim > 3 and e.shape[1] > 1:
        split["e"] = share.repeated(e, 1)
    return split | {"freqs": share.table(freqs, 1)}


def _preset(model) -> Preset:
    if model.out_dim == 48:
        return WAN_22_5B
    return WAN_22 if model.in_dim > 16 and model.img_emb is None else WAN_21


def _weights(width: int, feed_forward: int) -> int:
    """Self-attention's q, k, v and o, cross-attention's q and o, a feed-forward of two layers."""
    return 6 * width**2 + 2 * width * feed_forward


def _size(model):
    """Of VACE with one context. What S2V, HuMo and Animate add is little."""
    blocks = len(model.blocks) + len(getattr(model, "vace_blocks", ()))
    weights = _weights(model.dim, model.ffn_dim)
    return model_size(blocks, model.num_heads, model.dim // model.num_heads, weights)


def _by_name(preset: Preset, blocks: int, width: int, feed_forward: int, **latent) -> VideoModel:
    size = model_size(blocks, width // 128, 128, _weights(width, feed_forward))
    return VideoModel(preset, size, **latent)


_MODULE = "comfy.ldm.wan"
FAMILY = Family(
    name="Wan",
    classes={
        f"{_MODULE}.model.WanModel": ModelClass(_in_context, _preset, splits=True),
        f"{_MODULE}.model.VaceWanModel": ModelClass(_vace, lambda model: WAN_21, splits=True),
        f"{_MODULE}.model.CameraWanModel": ModelClass(_most, _preset, splits=True),
        f"{_MODULE}.model.WanModel_S2V": ModelClass(_s2v, lambda model: WAN_22),
        f"{_MODULE}.model.HumoWanModel": ModelClass(_humo, lambda model: HUMO),
        f"{_MODULE}.model.SCAILWanModel": ModelClass(_scail, lambda model: WAN_21, splits=True),
        f"{_MODULE}.model.SCAIL2WanModel": ModelClass(_scail, lambda model: WAN_21, splits=True),
        f"{_MODULE}.model_animate.AnimateWanModel": ModelClass(_most, lambda model: WAN_22),
        f"{_MODULE}.model_wandancer.WanDancerModel": ModelClass(_most, lambda model: WAN_22),
        f"{_MODULE}.ar_model.CausalWanModel": ModelClass(_in_context, lambda model: WAN_21),
    },
    presets=(WAN_21, WAN_22, WAN_22_5B, HUMO),
    # The experts of Wan 2.2 T2V are like Wan 2.1, but each runs only part of the schedule.
    expert_presets={WAN_21: WAN_22},
    head_dim=lambda model: model.dim // model.num_heads,
    size=_size,
    catalog={
        "Wan 2.1 14B": _by_name(WAN_21, 40, 5120, 13824),
        "Wan 2.1 1.3B": _by_name(WAN_21, 30, 1536, 8960),
        "Wan 2.2 A14B": _by_name(WAN_22, 40, 5120, 13824),
        "Wan 2.2 5B": _by_name(WAN_22_5B, 30, 3072, 14336, stride=16),
    },
    block_lists=(
        BlockList("blocks", "WanAttentionBlock", split=_split),
        BlockList("vace_blocks", "WanAttentionBlock", main=False, split=_split),
    ),
    projections={name: (f"self_attn.{name}",) for name in "qkvo"},
    fused_blocks="wan",
    behind_blocks="head",
)
