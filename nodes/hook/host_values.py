"""Host copies of tensors in ComfyUI's options. To read one waits for the GPU: it is done once."""

from collections.abc import Callable

import torch

from ...radial_core.padding import absent_tokens
from ..comfyui.state import is_training


class HostValues:
    """The values read in one run. For each name and device, those of the last tensor are kept."""

    def __init__(self):
        self._read = {}  # (name, device) -> (tensor, its values)

    def schedule(self, options: dict) -> list[float] | None:
        """The sampler's noise levels. In ComfyUI's LoRA training the tensor holds other numbers."""
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
        """What a mask hides, see `absent_tokens`. The blocks of a pass share one mask."""
        if mask is None:
            return ()
        return self._once("mask", mask, lambda: absent_tokens(mask, tokens))

    def _numbers(self, name: str, x: torch.Tensor) -> list[float]:
        """The passes of a step share one sigma tensor, those of a run one schedule."""
        return self._once(name, x, lambda: x.detach().flatten().tolist())

    def _once(self, name: str, x: torch.Tensor, read: Callable):
        tensor, values = self._read.get((name, x.device), (None, None))
        if tensor is not x:
            values = read()
            self._read[name, x.device] = x, values
        return values
