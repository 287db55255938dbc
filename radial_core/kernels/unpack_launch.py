"""Launches radial_core/kernels/unpack.py."""

import torch

from .launch import launch
from .unpack import unpack

COLUMNS, WARPS = 512, 4


def run(bits: torch.Tensor, indptr: torch.Tensor, total: int) -> torch.Tensor:
    """The set bits of each row, ascending, one row after another: int32 (total,).

    bits: uint8 (h, rows, columns / 8). indptr: int32 (h, rows + 1), where each row begins.
    """
    bits, indptr = bits.contiguous(), indptr.contiguous()
    heads, rows, width = bits.shape
    out = torch.empty(total, dtype=torch.int32, device=bits.device)
    aligned = tuple(x.data_ptr() % 16 == 0 for x in (bits, indptr))
    launch(
        (bits.device, bits.shape, aligned),
        unpack,
        (rows, heads, 1),
        (bits, indptr, out, width, COLUMNS),
        num_warps=WARPS,
    )
    return out
