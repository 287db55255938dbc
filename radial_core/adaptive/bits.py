"""Block maps as bits, for keeping: an eighth of their bytes, and a few percent of lists'."""

import torch
from torch.nn.functional import pad


def packed(kept: torch.Tensor) -> torch.Tensor:
    """bool (..., n) -> uint8 (..., n / 8 rounded up): bit i of byte j is element 8 j + i."""
    whole = pad(kept, (0, -kept.shape[-1] % 8)).unflatten(-1, (-1, 8))
    return (whole << torch.arange(8, dtype=torch.uint8, device=kept.device)).sum(
        dim=-1, dtype=torch.uint8
    )


def unpacked(bits: torch.Tensor, n: int) -> torch.Tensor:
    """The other way: uint8 (..., n / 8 rounded up) -> bool (..., n)."""
    places = torch.arange(8, dtype=torch.uint8, device=bits.device)
    return (bits[..., None] >> places & 1).flatten(-2)[..., :n].bool()


def unpacked_indices(bits: torch.Tensor, indptr: torch.Tensor, total: int) -> torch.Tensor:
    """The set bits of each row, ascending, one row after another: int32 (total,).

    bits: (h, rows, columns / 8, rounded up). indptr: int32 (h, rows + 1), where each row begins.
    """
    rows = indptr.shape[1] - 1
    return unpacked(bits, rows).nonzero()[:, -1].int()
