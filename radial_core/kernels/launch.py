"""What both launchers share: the outputs, and a launch without Triton's own dispatch."""

import math

import torch

LOG2_E = math.log2(math.e)  # the kernels take the softmax to base 2

# Shapes whose launch is remembered. Each length of prompt is one, and a server runs for weeks; to
# find one anew costs microseconds.
SHAPES_KEPT = 4096

_compiled: dict[tuple, object] = {}


def outputs(q: torch.Tensor, return_lse: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Room for out (b, s, h, d), contiguous, and for lse (b, h, s), float32, or None."""
    batch, tokens, heads, _ = q.shape
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    if not return_lse:
        return out, None
    return out, torch.empty(batch, heads, tokens, dtype=torch.float32, device=q.device)


def launch(key: tuple, kernel, grid: tuple[int, int, int], arguments: tuple, **options):
    """kernel[grid](*arguments, **options); some 50 us faster from the second time on.

    key: all that Triton compiles for: whole numbers, types and alignment of the tensors, constants,
    options and device. The same key always launches the same binary.
    """
    key = (kernel, *key)
    ready = _compiled.get(key)
    if ready is None:
        if len(_compiled) >= SHAPES_KEPT:
            _compiled.clear()
        _compiled[key] = kernel[grid](*arguments, **options)
    else:
        ready[grid](*arguments)
