"""Whether the fused operations can compute a call of a block, and if not, why."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F

from ...radial_core import fused

HOOKS = ("_forward_hooks", "_forward_pre_hooks")


class Declined(Exception):
    """Why a block runs unfused. The message is the reason that people read."""


class Form(NamedTuple):
    """The fused form of one of ComfyUI's blocks.

    plan: (module, **call) -> a function that computes the call. It raises Declined for a call that
    it can't compute, before it changes anything or calls any part of the module.
    small: (draw, **call) -> the arguments of a small call of the same kind, without the options.
    residuals: for each output, the argument that the block adds to; empty if there is none.
    patches: names of the patches in transformer_options that `plan` calls as ComfyUI does.
    part: the attribute of the block that holds it, which it is counted with; None for a block.
    """

    plan: Callable
    small: Callable
    residuals: tuple[str, ...] = ()
    patches: tuple[str, ...] = ()
    part: str | None = None


def reason_of(error: Exception) -> str:
    """Why a block runs unfused, from the error that was raised."""
    if isinstance(error, Declined):
        return str(error)
    first = str(error).partition("\n")[0]
    return f"{type(error).__name__}: {first}"


def is_cancel(error: Exception) -> bool:
    """Whether ComfyUI cancels the render. Up to 0.16 any layer may raise this, as an Exception."""
    return type(error).__name__ == "InterruptProcessingException"


def require(condition, why: str) -> None:
    if not condition:
        raise Declined(why)


def require_supported(x, *others, why_not: Callable | None = None) -> None:
    """Declines unless the fused operations support these tensors.

    why_not: of the operations; None for those in radial_core/fused.py.
    """
    why = (why_not or fused.why_not)(x, *others)
    require(why is None, f"the fused operations don't support its tensors: {why}")


def require_rotations(freqs, x, tokens: int, head_dim: int) -> None:
    """Declines unless the rotations are float32 of shape (b, tokens, d / 2, 2, 2)."""
    fits = freqs.dtype == torch.float32 and freqs.device == x.device
    fits = fits and head_dim & (head_dim - 1) == 0 and freqs[0].is_contiguous()
    fits = fits and freqs.shape[1:] == (tokens, head_dim // 2, 2, 2)
    require(fits, f"rotations {tuple(freqs.shape)} in {freqs.dtype} for heads of {head_dim}")


def rms_norms(x: torch.Tensor, *norms) -> list[tuple[torch.Tensor, float]]:
    """Weight and epsilon of RMSNorms. Declines if a weight can't be used as it is, next to x."""
    for norm in norms:
        weight, name = getattr(norm, "weight", None), type(norm).__name__
        is_norm = torch.is_tensor(weight) and hasattr(norm, "eps")
        require(is_norm, f"{name} instead of a norm with weights")
        is_plain = type(weight) in (torch.Tensor, torch.nn.Parameter)
        require(is_plain and weight.is_floating_point(), f"a norm's weight is a {type(weight)}")
        require(weight.device == x.device, "a norm's weight is on another device")
        functions = "weight_function", "weight_lowvram_function"
        added = any(getattr(norm, function, None) for function in functions)
        require(not added, "a LoRA that is added to a norm during the pass")
    return [(norm.weight.to(x.dtype), _eps(norm, x)) for norm in norms]


def layer_norm_eps(norm) -> float:
    """The epsilon of a LayerNorm that has neither weight nor bias."""
    cls = type(norm).__name__
    require(hasattr(norm, "eps"), f"{cls} instead of a LayerNorm")
    has_weights = any(getattr(norm, name, None) is not None for name in ("weight", "bias"))
    require(not has_weights, f"{cls} with weights instead of one without")
    return norm.eps


def _eps(norm, x: torch.Tensor) -> float:
    """A norm's epsilon, else torch's default: that of x's dtype or of float32, by version."""
    if norm.eps is not None:
        return norm.eps
    key = (x.device, x.dtype)
    if key not in _default_eps:
        small = torch.full((4, 128), 1e-3, device=x.device, dtype=x.dtype)
        of_float32 = F.rms_norm(small, (128,)).float().mean().item() > 0.5
        _default_eps[key] = torch.finfo(torch.float32 if of_float32 else x.dtype).eps
    return _default_eps[key]


_default_eps: dict[tuple, float] = {}


def is_watched(part) -> bool:
    """Whether another pack hooked this part or replaced its forward."""
    return "forward" in vars(part) or any(getattr(part, hooks) for hooks in HOOKS)


def function_of(module, name: str) -> Callable:
    """The function that the code of a block calls by this name, whatever module it comes from."""
    function = type(module).forward.__globals__.get(name)
    require(callable(function), f"ComfyUI has no {name} beside its {type(module).__name__}")
    return function


def sample_tokens(rotations: torch.Tensor, tokens: int, dim: int = 1) -> torch.Tensor:
    """The rotations of a few tokens, evenly spaced over the first video of a batch.

    dim: the dimension of the tokens.
    """
    last = rotations.shape[dim] - 1
    chosen = torch.linspace(0, last, tokens).long().to(rotations.device)
    return rotations[:1].index_select(dim, chosen)
