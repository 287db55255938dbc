"""Launches the 8-bit kernels: int8_quantize.py and then int8.py, for some heads at a time."""

from functools import lru_cache

import torch
import triton

from .int8 import attend
from .int8_codes import PART as PART_OF_KERNELS
from .int8_quantize import quantize
from .int8_statistics import statistics
from .launch import LOG2_E, launch, list_stride, outputs
from .portable_launch import Tiles

CODES_AT_ONCE = 2**30  # bytes of codes of k and v; more if one head has more
PART = PART_OF_KERNELS.value
SAMPLE = 1024  # tokens for int8_statistics.py, at most
QUANTIZE_PARTS = 4  # of a program
# The fewest columns that a product may have.
_version = tuple(map(int, triton.__version__.split(".")[:2]))
SUMS = 8 if torch.version.cuda and _version >= (3, 5) else 16


def run(
    tiles: Tiles,
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

    indptr, indices, order: of a plan; or with an indptr of one row, which all rows then walk.
    """
    batch, tokens, heads, head_dim = q.shape
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    out, lse = outputs(q, return_lse)
    block_m, block_n = min(tiles.block_m, block_size), min(tiles.block_n, block_size)
    blocks = -(-tokens // block_size)
    parts = blocks * (block_size // PART)
    to_next_list, to_next_row = list_stride(indptr), int(indptr.shape[1] == blocks + 1)
    at_once = _heads_at_once(heads, 2 * batch * parts * PART * head_dim)
    rotation = rotation_matrix(head_dim // 2, q.device)

    def empty(*shape, dtype=torch.float32):
        return torch.empty(batch * at_once, *shape, dtype=dtype, device=q.device)

    k_codes, v_codes = (empty(parts, PART * head_dim, dtype=torch.int8) for _ in range(2))
    k_scales, v_scales, q_scales = empty(parts), empty(parts), empty(tokens)
    lse_shift = empty(tokens) if return_lse else q_scales  # not touched
    k_mean, v_mean, v_deviation = (empty(head_dim) for _ in range(3))
    q_strides, kv_strides = q.stride()[:3], (*k.stride()[:3], *v.stride()[:3])
    for first in range(0, heads, at_once):
        some = slice(first, min(first + at_once, heads))
        count = some.stop - first
        some_q, some_k, some_v, some_out = (x[:, :, some] for x in (q, k, v, out))
        some_lse = some_out if lse is None else lse[:, some]  # not touched
        lists = indptr[some] if to_next_list else indptr
        q_codes = some_out.view(torch.int8)  # they wait where the output of their rows will be
        key = (
            tiles,
            q.device,
            q.dtype,
            q.shape,
            count,
            q_strides,
            kv_strides,
            block_size,
            return_lse,
        )
        key += tuple(x.data_ptr() % 16 for x in (some_q, some_k, some_v, some_lse, lists))
        launch(
            key,
            statistics,
            (batch * count, 1, 1),
            (
                some_k,
                some_v,
                k_mean,
                v_mean,
                v_deviation,
                tokens,
                -(-tokens // SAMPLE),
                count,
                *kv_strides,
                head_dim,
            ),
            num_warps=8,
            enable_fp_fusion=True,
        )
        launch(
            key,
            quantize,
            (batch * count, -(-parts // QUANTIZE_PARTS), 3),
            (
                some_q,
                some_k,
                some_v,
                k_mean,
                v_mean,
                v_deviation,
                rotation,
                q_codes,
                q_scales,
                k_codes,
                k_scales,
                v_codes,
                v_scales,
                lse_shift,
                tokens,
                parts,
                count,
                heads,
                softmax_scale * LOG2_E / head_dim,
                *q_strides,
                *kv_strides,
                head_dim,
                QUANTIZE_PARTS,
                return_lse,
            ),
            num_warps=4,
            enable_fp_fusion=True,
        )
        launch(
            (*key, to_next_list > 0, to_next_row),
            attend,
            (blocks * (block_size // block_m), batch * count, 1),
            (
                q_codes,
                q_scales,
                k_codes,
                k_scales,
                v_codes,
                v_scales,
                v_mean,
                v_deviation,
                lse_shift,
                some_out,
                some_lse,
                lists,
                indices,
                order,
                to_next_list,
                to_next_row,
                tokens,
                parts,
                count,
                heads,
                head_dim,
                block_size,
                block_m,
                block_n,
                tiles.stages,
                SUMS,
                return_lse,
            ),
            num_warps=tiles.warps,
            num_stages=tiles.stages,
            enable_fp_fusion=True,
        )
    return out, lse


def _heads_at_once(heads: int, bytes_of_each: int) -> int:
    """As many as CODES_AT_ONCE allows, and about as many each time."""
    launches = -(-heads // max(1, CODES_AT_ONCE // bytes_of_each))
    return -(-heads // launches)


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
