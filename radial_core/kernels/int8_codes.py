"""What the int8 kernels share: how numbers become codes."""

import triton
import triton.language as tl

# 1.5 * 2^23, a float whose last bit counts as 1, and its bits: an int32 below 2^22 that is added to
# the bits is added to the number.
MAGIC = tl.constexpr(12582912.0)
MAGIC_BITS = tl.constexpr(0x4B400000)
LEAST = tl.constexpr(1e-30)  # of what is divided by
LOG2_126 = tl.constexpr(6.977279923499917)
LN_2 = tl.constexpr(0.6931471805599453)
# Of the scores within a part. A larger one would let weights exceed 127, and is far beyond where
# rounding q and k decides which key wins.
LARGEST_SCALE = tl.constexpr(0.02)
LARGEST = tl.constexpr(1e30)  # of the same between parts: keeps what is multiplied by it finite
PART = tl.constexpr(64)  # keys whose scores are one product


@triton.jit
def as_int8(x):
    """Numbers in [-127, 127] as int8, rounded to the nearest."""
    return (x + MAGIC).to(tl.int32, bitcast=True).to(tl.int8)
