"""Launches the 8-bit kernels, for some heads at a time: int8_quantize.py, and what reads its codes:
int8.py, or hopper_int8.py through hopper_int8_launch.py.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
import triton

from ..chunks import heads_at_once
from . import int8_codes
from .int8 import attend
from .int8_quantize import quantize
from .int8_statistics import statistics
from .launch import FUSED, HOPPER, LOG2_E, launch, list_stride, outputs
from .portable_launch import Tiles

CODES_AT_ONCE = 2**30  # bytes of codes of k and v; more if one head has more
PART = int8_codes.PART.value  # of int8.py
SAMPLE = 1024  # tokens for int8_statistics.py, at most
QUANTIZED = 128
# The fewest columns that a product may have.
_version = tuple(map(int, triton.__version__.split(".")[:2]))
SUMS = 8 if torch.version.cuda and _version >= (3, 5) else 16


class Scratch(NamedTuple):
    """What the kernels hand to each other, for some heads; see int8_quantize.py.

    means: k_mean, v_mean, v_deviation. codes: q_scales, k_codes, k_scales, v_codes, v_scales.
    """

    means: tuple[torch.Tensor, ...]
    codes: tuple[torch.Tensor, ...]
    lse_shift: torch.Tensor

    @property
    def parts(self) -> int:
        return self.codes[1].shape[1]


def run(
    config: str | Tiles,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    indptr: torch.Tensor,
    indices: torch.Tensor,
    order: torch.Tensor,
    block_size: int,
    softmax_scale: float,
    return_lse: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """out (b, s, h, d) contiguous, and lse (b, h, s) or None.

    config: HOPPER, or the tiles of int8.py. indptr, indices, order: of a plan; or with an indptr of
    one row, which all rows then walk.
    """
    heads = q.shape[2]
    if softmax_scale < 0:  # scales of codes are positive
        q, softmax_scale = -q, -softmax_scale
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    out, lse = outputs(q, return_lse)
    part = block_size if config == HOPPER else PART
    parts = -(-q.shape[1] // block_size) * (block_size // part)
    bytes_of_each = 2 * q.shape[0] * parts * part * q.shape[3]
    at_once = heads_at_once(heads, bytes_of_each, CODES_AT_ONCE)
    scratch = _empty_scratch(q, parts, part, at_once, return_lse)
    key = (config, q.device, q.dtype, q.shape, q.stride(), k.stride(), v.stride(), block_size)
    for first in range(0, heads, at_once):
        some = slice(first, min(first + at_once, heads))
        some_q, some_k, some_v, some_out = (x[:, :, some] for x in (q, k, v, out))
        some_lse = None if lse is None else lse[:, some]
        lists = (indptr[some] if list_stride(indptr) else indptr, indices, order)
        _quantize(key, some_q, some_k, some_v, some_out, scratch, part, softmax_scale, return_lse)
        if config == HOPPER:
            from .hopper_int8_launch import attend_on_hopper  # Gluon is not in every Triton

            attend_on_hopper(key, some_out, some_lse, scratch, lists, block_size)
        else:
            _attend(key, config, some_out, some_lse, scratch, lists, block_size)
    return out, lse


def _empty_scratch(q: torch.Tensor, parts: int, part: int, heads: int, lse: bool) -> Scratch:
    batch, tokens, _, head_dim = q.shape

    def empty(*shape, dtype=torch.float32):
        return torch.empty(batch * heads, *shape, dtype=dtype, device=q.device)

    k_codes, v_codes = (empty(parts, part * head_dim, dtype=torch.int8) for _ in range(2))
    q_scales, k_scales, v_scales = empty(tokens), empty(parts), empty(parts)
    return Scratch(
        means=tuple(empty(head_dim) for _ in range(3)),
        codes=(q_scales, k_codes, k_scales, v_codes, v_scales),
        lse_shift=empty(tokens) if lse else q_scales,  # not touched
    )


def _quantize(key, q, k, v, out, scratch: Scratch, part: int, softmax_scale: float, lse: bool):
    """Fill the scratch. q, k, v, out: (b, s, some heads, d)."""
    batch, tokens, count, head_dim = q.shape
    parts = scratch.parts
    all_heads = out.stride(1) // head_dim
    q_strides, kv_strides = q.stride()[:3], (*k.stride()[:3], *v.stride()[:3])
    key = (*key, count, lse, *(x.data_ptr() % 16 for x in (q, k, v)))
    every = -(-tokens // SAMPLE)
    launch(
        key,
        statistics,
        (batch * count, 1, 1),
        (k, v, *scratch.means, tokens, every, count, *kv_strides, head_dim),
        num_warps=8,
        **FUSED,
    )
    launch(
        key,
        quantize,
        (batch * count, -(-parts * part // QUANTIZED), 3),
        (
            q,
            k,
            v,
            *scratch.means,
            rotation_matrix(head_dim // 2, q.device),
            out.view(torch.int8),  # q's codes wait where the output of the same rows will be
            *scratch.codes,
            scratch.lse_shift,
            tokens,
            parts,
            count,
            all_heads,
            softmax_scale * LOG2_E / head_dim,
            *q_strides,
            *kv_strides,
            head_dim,
            part,
            QUANTIZED // part,
            lse,
        ),
        num_warps=part // 16,
        **FUSED,
    )


def _attend(key, tiles: Tiles, out, lse, scratch: Scratch, lists, block_size: int):
    """Fill out, (b, s, some heads, d), and lse, (b, some heads, s) or None."""
    batch, tokens, count, head_dim = out.shape
    indptr, indices, order = lists
    blocks = -(-tokens // block_size)
    to_next_list, to_next_row = list_stride(indptr), int(indptr.shape[1] == blocks + 1)
    block_m, block_n = min(tiles.block_m, block_size), min(tiles.block_n, block_size)
    some_lse = out if lse is None else lse  # not touched
    addresses = (some_lse.data_ptr() % 16, indptr.data_ptr() % 16)
    launch(
        (*key, count, lse is None, to_next_list > 0, to_next_row, *addresses),
        attend,
        (blocks * (block_size // block_m), batch * count, 1),
        (
            out.view(torch.int8),
            *scratch.codes,
            *scratch.means[1:],
            scratch.lse_shift,
            out,
            some_lse,
            indptr,
            indices,
            order,
            to_next_list,
            to_next_row,
            tokens,
            scratch.parts,
            count,
            out.stride(1) // head_dim,
            head_dim,
            block_size,
            block_m,
            block_n,
            tiles.stages,
            SUMS,
            lse is not None,
        ),
        num_warps=tiles.warps,
        num_stages=tiles.stages,
        **FUSED,
    )


@lru_cache(maxsize=8)
def rotation_matrix(size: int, device: torch.device) -> torch.Tensor:
    """(size, size) of -1 and 1 with orthogonal rows: a Hadamard matrix with fixed signs.

    Without the signs, a vector that is the same in all channels would end up in one of them.
    """
    with torch.inference_mode(False):
        matrix = torch.ones(1, 1)
        while len(matrix) < size:
            top, bottom = torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)
            matrix = torch.cat([top, bottom])
        signs = torch.randn(size, 1, generator=torch.Generator().manual_seed(0)).sign()
        # On the CPU, Triton's interpreter runs the kernels, and gets bfloat16 wrong.
        dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
        return (signs * matrix).to(device, dtype)
