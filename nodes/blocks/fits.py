"""Whether a block's tensors are what the fused operations take."""

import torch
import torch.nn.functional as F

from ...radial_core import fused


def weights_of(x: torch.Tensor, *norms) -> list[torch.Tensor] | None:
    """The weights of RMSNorms, if they are where x is and nothing has to be done to them."""
    weights = [getattr(norm, "weight", None) for norm in norms]
    if any(w is None or w.device != x.device or not w.is_floating_point() for w in weights):
        return None
    if any(getattr(norm, "weight_function", ()) for norm in norms):  # a LoRA, added on the way
        return None
    return [w.to(x.dtype) for w in weights]


def takes(x, freqs, tokens: int, head_dim: int, *others) -> bool:
    """freqs: the rotations, (b, tokens, d / 2, 2, 2)."""
    return (
        fused.why_not(x, *others) is None
        and head_dim & (head_dim - 1) == 0
        and freqs.dtype == torch.float32
        and freqs.shape[1:] == (tokens, head_dim // 2, 2, 2)
        and freqs[0].is_contiguous()
    )


_default_eps: dict[tuple, float] = {}


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
