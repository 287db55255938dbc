"""Which kernel runs the calls that stay dense."""

import torch

from ...radial_core.dense import dense_attention, fastest_dense
from ..comfyui.state import has_option

AUTO, COMFYUI, FASTEST = "auto", "comfyui", "fastest"
CHOICES = (AUTO, COMFYUI, FASTEST)
# ComfyUI's command-line options that choose an attention.
OPTIONS = (
    "use_sage_attention",
    "use_flash_attention",
    "use_pytorch_cross_attention",
    "use_split_cross_attention",
    "use_quad_cross_attention",
    "use_ck_attention",
)


def wants_fastest(choice: str, is_chosen: bool) -> bool:
    """Whether a dense call runs the fastest kernel, or what ComfyUI would.

    "auto" takes the fastest unless the user chose an attention: on ComfyUI's command line, or
    is_chosen, by a node or by a checkpoint.
    """
    if choice == AUTO:
        return not is_chosen and not has_option(*OPTIONS)
    return choice == FASTEST


def is_beaten(q, k, v, approximate: bool = False) -> bool:
    """Whether a kernel is faster than torch's default. q, k, v: (b, s, h, d)."""
    return fastest_dense(q, k, v, approximate) is not None


def attend_fast(
    q, k, v, softmax_scale: float | None, approximate: bool = False
) -> tuple[torch.Tensor | None, str | None]:
    """Output and name of the fastest kernel; twice None if that is torch's default.

    q, k, v, output: (b, s, h, d). approximate: whether it may be one that is not exact.
    """
    if not is_beaten(q, k, v, approximate):
        return None, None
    return dense_attention(q, k, v, softmax_scale, approximate)
