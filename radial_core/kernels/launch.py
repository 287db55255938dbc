"""What both launchers share: outputs, lists per head, and a launch without Triton's dispatch."""

import math

import torch

LOG2_E = math.log2(math.e)  # the kernels take the softmax to base 2

# Launches that are remembered. Each length of prompt is a shape of its own, and a server runs for
# weeks; to forget one costs some 50 us.
SHAPES_KEPT = 4096

# In place of tiles: the kernel that is written for Hopper.
HOPPER = "hopper"

# Without it from Triton 3.10 on, each multiplication and addition is two instructions.
FUSED = {"enable_fp_fusion": True}

_compiled: dict[tuple, object] = {}


def outputs(q: torch.Tensor, return_lse: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Empty out (b, s, h, d), contiguous, and empty lse (b, h, s), float32, or None."""
    batch, tokens, heads, _ = q.shape
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    if not return_lse:
        return out, None
    return out, torch.empty(batch, heads, tokens, dtype=torch.float32, device=q.device)


def list_stride(indptr: torch.Tensor) -> int:
    """From the rows of one head's list to the next one's; 0 if all heads share one list."""
    return indptr.stride(0) if len(indptr) > 1 else 0


def launch(key: tuple, kernel, grid: tuple[int, int, int], arguments: tuple, **options):
    """kernel[grid](*arguments, **options); some 50 us faster from the second time on.

    key: everything that Triton compiles for: whole numbers, types and alignment of the tensors,
    constants, options and device. The same key always launches the same binary. (For AMD, Triton
    also asks whether a tensor's memory is under 2 GiB. A view's shape and strides bound what is
    read of it, so a binary fits all that share them.)
    """
    key = (kernel, *key)
    ready = _compiled.get(key)
    if ready is None:
        if len(_compiled) >= SHAPES_KEPT:
            _compiled.clear()
        _compiled[key] = kernel[grid](*arguments, **options)
    else:
        ready[grid](*arguments)
