"""Whether a block and its tensors are what the fused operations stand for."""

import torch
import torch.nn.functional as F

from ...radial_core import fused

HOOKS = ("_forward_hooks", "_forward_pre_hooks")


class Declined(Exception):
    """The block runs as it is."""


def require(condition) -> None:
    if not condition:
        raise Declined


def require_untouched(*norms) -> None:
    """That nobody wants to be called when these norms are."""
    for norm in norms:
        require("forward" not in vars(norm) and not any(getattr(norm, name) for name in HOOKS))


def weights_of(x: torch.Tensor, *norms) -> list[torch.Tensor]:
    """The weights of RMSNorms, if they are where x is and nothing has to be done to them."""
    require_untouched(*norms)
    for norm in norms:
        require(norm.weight.device == x.device and norm.weight.is_floating_point())
        require(not getattr(norm, "weight_function", ()))  # a LoRA, added on the way
    return [norm.weight.to(x.dtype) for norm in norms]


def eps_of(norm, x: torch.Tensor) -> float:
    """A norm's epsilon; torch's where it has none: that of x's type or of float32, by version."""
    if norm.eps is not None:
        return norm.eps
    key = (x.device, x.dtype)
    if key not in _default_eps:
        small = torch.full((4, 128), 1e-3, device=x.device, dtype=x.dtype)
        of_float32 = F.rms_norm(small, (128,)).float().mean().item() > 0.5
        _default_eps[key] = torch.finfo(torch.float32 if of_float32 else x.dtype).eps
    return _default_eps[key]


_default_eps: dict[tuple, float] = {}


def plain_eps(norm) -> float:
    """The epsilon of a LayerNorm that has neither weight nor bias."""
    require_untouched(norm)
    require(norm.weight is None and norm.bias is None)
    return norm.eps


def require_taken(x, *others) -> None:
    """That the fused operations take these tensors."""
    require(fused.why_not(x, *others) is None)


def require_rotations(freqs, x, tokens: int, head_dim: int) -> None:
    """freqs: (b, tokens, d / 2, 2, 2)."""
    require(head_dim & (head_dim - 1) == 0)
    require(freqs.dtype == torch.float32 and freqs.device == x.device)
    require(freqs.shape[1:] == (tokens, head_dim // 2, 2, 2) and freqs[0].is_contiguous())
