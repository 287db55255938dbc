"""Means and mean deviations of k and v over a sample of the tokens, for int8_quantize.py."""

import triton
import triton.language as tl

from .int8_codes import LEAST

ROWS = tl.constexpr(128)
LEAST_DEVIATION = tl.constexpr(0.05)  # of a channel, as a share of the mean over all channels


@triton.jit
def statistics(
    k_start,  # each of these points at the first element of its tensor
    v_start,
    k_mean,  # float32 (b, h, d), as are the next two
    v_mean,
    v_deviation,
    tokens,
    every,  # one in how many tokens belongs to the sample
    heads,
    k_batch,  # strides, in elements; that of head_dim is 1
    k_token,
    k_head,
    v_batch,
    v_token,
    v_head,
    HEAD_DIM: tl.constexpr,
):
    pair = tl.program_id(0)
    batch = (pair // heads).to(tl.int64)
    head = (pair % heads).to(tl.int64)
    k_start += batch * k_batch + head * k_head
    v_start += batch * v_batch + head * v_head
    channels = tl.arange(0, HEAD_DIM)
    count = tl.cdiv(tokens, every)
    sum_k = tl.zeros([HEAD_DIM], tl.float32)
    sum_v = tl.zeros([HEAD_DIM], tl.float32)
    for first in tl.range(0, count, ROWS, num_stages=1):
        sum_k += tl.sum(_sample(k_start, first, count, every, tokens, k_token, 0.0, HEAD_DIM), 0)
        sum_v += tl.sum(_sample(v_start, first, count, every, tokens, v_token, 0.0, HEAD_DIM), 0)
    mean = sum_v / count
    # Not the root of the mean square, which a single loud token would decide.
    deviation = tl.zeros([HEAD_DIM], tl.float32)
    for first in tl.range(0, count, ROWS, num_stages=1):
        v = _sample(v_start, first, count, every, tokens, v_token, mean[None, :], HEAD_DIM)
        deviation += tl.sum(tl.abs(v), 0)
    deviation /= count
    mean_deviation = tl.sum(deviation) / HEAD_DIM
    least = tl.maximum(LEAST_DEVIATION * mean_deviation, LEAST)
    places = pair * HEAD_DIM + channels
    tl.store(k_mean + places, sum_k / count)
    tl.store(v_mean + places, mean)
    tl.store(v_deviation + places, tl.where(mean_deviation > 0, tl.maximum(deviation, least), 1.0))


@triton.jit
def _sample(start, first, count, every, tokens, stride, less, HEAD_DIM: tl.constexpr):
    """Some of the sample less `less`, float32 (ROWS, HEAD_DIM); 0 past its end."""
    rows = first + tl.arange(0, ROWS)
    # Not each time the same place in its stretch, which might be the same column of each frame.
    tokens_of_rows = tl.minimum(rows * every + rows * 37 % every, tokens - 1)
    places = start + tokens_of_rows.to(tl.int64)[:, None] * stride
    x = tl.load(places + tl.arange(0, HEAD_DIM)[None, :], mask=(rows < count)[:, None], other=0.0)
    return tl.where((rows < count)[:, None], x.to(tl.float32) - less, 0.0)
