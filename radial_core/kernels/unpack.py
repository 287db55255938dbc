"""Rows of bits -> the places of their set bits, one row after another (adaptive/bits.py).

One program writes one row of one head. Nothing waits for the device: where a row begins is known.
"""

import triton
import triton.language as tl


@triton.jit
def unpack(
    bits,
    indptr,
    out,
    width,  # bytes of a row
    COLUMNS: tl.constexpr,  # of a step
):
    """bits: contiguous uint8 (h, rows, width). indptr: int32 (h, rows + 1). out: int32 (total,)."""
    row, head, rows = tl.program_id(0), tl.program_id(1), tl.num_programs(0)
    bits += (head.to(tl.int64) * rows + row) * width
    out += tl.load(indptr + head * (rows + 1) + row)
    column = tl.arange(0, COLUMNS)
    for first in range(0, width * 8, COLUMNS):
        place = first + column
        byte = tl.load(bits + place // 8, mask=place < width * 8, other=0).to(tl.int32)
        is_set = byte >> (place % 8) & 1
        tl.store(out + tl.cumsum(is_set, 0) - 1, place, is_set > 0)
        out += tl.sum(is_set, 0)
