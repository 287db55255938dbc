"""Which kernel runs the calls that stay dense."""

from collections.abc import Callable

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
)


def wants_fastest(choice: str, previous: Callable | None) -> bool:
    """Whether dense calls of a forward pass run the fastest exact kernel, or what ComfyUI would.

    "auto" takes the fastest unless the user chose an attention, on ComfyUI's command line or by a
    node, which is then on the hook as `previous`.
    """
    if choice == AUTO:
        return previous is None and not has_option(*OPTIONS)
    return choice == FASTEST


def attend_fast(q, k, v, softmax_scale: float | None) -> tuple[torch.Tensor | None, str | None]:
    """Output and name of the fastest exact kernel; twice None if that is torch's default.

    q, k, v, output: (b, s, h, d).
    """
    if fastest_dense(q, k, v) is None:
        return None, None
    return dense_attention(q, k, v, softmax_scale)
