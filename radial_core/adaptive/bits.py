"""Block maps as bits, for keeping: an eighth of their bytes, and a few percent of lists'."""

import torch
from torch.nn.functional import pad

from ..backends import triton
from ..call import Call
from .proven import by_kernel

KERNEL = "unpacking"
PROOF_SHAPE = (2, 5, 77)  # two heads, and rows of more bytes than a step of the kernel takes


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
    # Of a call only the device matters here. The others are what our kernels take everywhere.
    call = Call(bits.device, torch.float16, head_dim=64, block_size=64)
    indices = by_kernel(KERNEL, call, _why_not_kernel, _fault, lambda: _kernel(bits, indptr, total))
    return _by_torch(bits) if indices is None else indices


def _by_torch(bits: torch.Tensor) -> torch.Tensor:
    """On a GPU it waits for the device, which alone knows how many bits are set."""
    return unpacked(bits, 8 * bits.shape[-1]).nonzero()[:, -1].int()


def _why_not_kernel(call: Call) -> str | None:
    return triton.why_not_ours(KERNEL, triton.HEAD_DIMS, call)


def _kernel(*arguments) -> torch.Tensor:
    from ..kernels import unpack_launch

    return unpack_launch.run(*arguments)


def _fault(call: Call) -> str | None:
    """What is wrong with the kernel's result on a small case."""
    random = torch.Generator().manual_seed(0)  # not the user's
    bits = torch.randint(256, PROOF_SHAPE, generator=random, dtype=torch.uint8)
    bits[0, 1], bits[1, 2] = 0, 255
    true = _by_torch(bits)
    lengths = unpacked(bits, 8 * bits.shape[-1]).sum(dim=-1)
    ends = lengths.flatten().cumsum(0).view_as(lengths)
    indptr = torch.cat([ends[:, :1] - lengths[:, :1], ends], dim=1).int()
    ours = _kernel(bits.to(call.device), indptr.to(call.device), len(true)).cpu()
    return None if torch.equal(ours, true) else "it finds other bits than torch"
