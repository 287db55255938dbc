"""What tensors in ComfyUI's options say. They are on the GPU, and reading waits for that: once."""

from collections.abc import Callable

import torch

from ...radial_core.padding import absent_tokens
from ..comfyui.state import is_training


class HostValues:
    """The readings of one run. The last tensor of each name is kept, for each device."""

    def __init__(self):
        self._read = {}  # (name, device) -> (tensor, what it says)

    def schedule(self, options: dict) -> list[float] | None:
        """The sampler's noise levels; ComfyUI's LoRA training puts other numbers in their place."""
        sigmas = options.get("sample_sigmas")
        if sigmas is None or is_training():
            return None
        return self._numbers("sample_sigmas", sigmas)

    def sigma(self, options: dict) -> float | None:
        """The noise level of this pass."""
        sigma = options.get("sigmas")
        numbers = [] if sigma is None else self._numbers("sigmas", sigma)
        return numbers[0] if numbers else None

    def absent(self, mask: torch.Tensor | None, tokens: int) -> tuple[int, ...] | None:
        """See `absent_tokens`. The blocks of a pass share one mask."""
        if mask is None:
            return ()
        return self._once("mask", mask, lambda: absent_tokens(mask, tokens))

    def _numbers(self, name: str, x: torch.Tensor) -> list[float]:
        """Passes of a step share the one tensor, all passes of a run the other."""
        return self._once(name, x, lambda: x.detach().flatten().tolist())

    def _once(self, name: str, x: torch.Tensor, read: Callable):
        seen, says = self._read.get((name, x.device), (None, None))
        if seen is not x:
            says = read()
            self._read[name, x.device] = x, says
        return says
