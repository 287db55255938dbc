"""What each model family's attention calls look like: the one place that knows."""

from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers.torch_compile import COMPILE_KEY

from ..radial_core import VideoLayout

SLOT = "optimized_attention_override"  # ComfyUI's hook, in transformer_options
KEY = "radial_attention"  # our wrappers' and callback's name, and our entry in transformer_options

WAN = "comfy.ldm.wan.model.WanModel"
SUPPORTED = (WAN,)
CROSS_ATTENTION = "cross-attention"


def family_of(diffusion_model) -> str:
    """The class of a diffusion model, as module.Class; torch.compile's wrapping taken off."""
    kind = type(getattr(diffusion_model, "_orig_mod", diffusion_model))
    return f"{kind.__module__}.{kind.__qualname__}"


def is_compiled(diffusion_model, options: dict) -> bool:
    """Whether a forward pass runs under ComfyUI's torch.compile, all of it or parts."""
    wrappers = options.get("wrappers", {}).get(WrappersMP.APPLY_MODEL, {})
    return COMPILE_KEY in wrappers or hasattr(diffusion_model, "_orig_mod")


def grid_of(diffusion_model, x) -> tuple[int, ...]:
    """Frames, height and width in patches of a latent (b, c, f, h, w), padded to whole patches."""
    patch_size = getattr(diffusion_model, "_orig_mod", diffusion_model).patch_size
    return tuple(-(-n // p) for n, p in zip(x.shape[2:], patch_size, strict=True))


def head_dim_of(diffusion_model) -> int | None:
    """head_dim of a supported model's self-attention; None for any other model."""
    if family_of(diffusion_model) not in SUPPORTED:
        return None
    return diffusion_model.dim // diffusion_model.num_heads


def why_not_forward(diffusion_model, conditions: dict) -> str | None:
    """Why a forward pass of a model runs as before, all of it; None if calls of it can be radial.

    conditions: the keyword arguments of BaseModel.apply_model that carry conditioning.
    """
    family = family_of(diffusion_model)
    if family not in SUPPORTED:
        return f"{family} is not a model this pack knows"
    if conditions.get("time_dim_concat") is not None:
        return "reference frames stand behind the video's own"  # and no distance in time
    return None


def other_sequences(c_crossattn, conditions: dict) -> frozenset[int]:
    """Lengths of the sequences that a forward attends to besides the video: text, image tokens."""
    tensors = (c_crossattn, conditions.get("clip_fea"))
    return frozenset(x.shape[-2] for x in tensors if x is not None)


def self_attention_layout(
    options: dict, query_tokens: int, key_tokens: int, others: frozenset[int]
) -> VideoLayout | str:
    """Where the video stands in a call, or why the call is not self-attention over a video.

    options: the call's transformer_options. others: see `other_sequences`.
    """
    grid = options.get("grid_sizes")
    if grid is None or options.get("block_index") is None:
        return "not in a transformer block"
    # Wan's cross-attention comes with the same options: the video asks, the text answers.
    if query_tokens != key_tokens:
        return CROSS_ATTENTION
    if key_tokens in others:
        return f"the video and its prompt both have {key_tokens} tokens: can't tell which this is"
    frames, height, width = (int(n) for n in grid)
    layout = VideoLayout(frames, height, width)
    if layout.tokens != query_tokens:
        return f"{query_tokens} tokens are not a {frames}x{height}x{width} video alone"
    return layout
