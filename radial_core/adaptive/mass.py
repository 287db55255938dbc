"""Block mass: how much of its attention each query block gives to each key block."""

import logging
import math

import torch

from .. import failures
from ..backends import triton
from ..call import Call, call_key, on_device

# One in so many queries of a block is asked, which costs a quarter of the products. In the quality
# lab, lists from a quarter of the queries are as good as those from all of them within the error.
EVERY = 4
SCORES_AT_ONCE = 2**24  # bounds the scratch memory where there is no kernel

KERNEL = "block mass"
log = logging.getLogger("radial_attention")


def block_mass(
    q: torch.Tensor,
    k: torch.Tensor,
    block_size: int,
    softmax_scale: float | None = None,
    blocks: torch.Tensor | None = None,
) -> torch.Tensor:
    """The share of dense attention of each query block that goes to each key block, in each head.

    q, k: (s, h, d), one video. blocks: the query blocks to ask, int64; all of them if None. Returns
    float32 (h, query blocks, key blocks), whose rows sum to 1: the mean over every EVERY-th query
    of the block. softmax_scale: d ** -0.5 if None.
    """
    scale = q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
    each = block_size // EVERY
    places = asked(q.shape[0], block_size, q.device)
    queries = q[places if blocks is None else places.view(-1, each)[blocks].flatten()]
    call = Call(*call_key(q, k, k, block_size))
    if failures.ask(KERNEL, _why_not_kernel, call) is None:
        try:
            from ..kernels import block_mass_launch

            with on_device(q.device):
                return block_mass_launch.run(queries, k, each, block_size, scale)
        except Exception as error:
            failures.remember(KERNEL, call, error)
    return by_torch(queries, k, each, block_size, scale)


def asked(tokens: int, block_size: int, device: torch.device) -> torch.Tensor:
    """The queries that are asked, int64 (blocks * block_size / EVERY,).

    A last block that is partly filled repeats its last token.
    """
    blocks = -(-tokens // block_size)
    places = torch.arange(EVERY // 2, blocks * block_size, EVERY, device=device)
    return places.clamp_(max=tokens - 1)


def by_torch(
    queries: torch.Tensor, k: torch.Tensor, each: int, block_size: int, scale: float
) -> torch.Tensor:
    """`block_mass` in plain torch. queries: (query blocks * each, h, d), `each` of every block."""
    tokens, heads, _ = k.shape
    blocks = -(-tokens // block_size)
    asking = len(queries) // each
    mass = torch.empty(heads, asking, blocks, dtype=torch.float32, device=k.device)
    rows = max(1, SCORES_AT_ONCE // (each * blocks * block_size))
    for head in range(heads):
        keys = k[:, head].T
        for first in range(0, asking, rows):
            query = queries[first * each : (first + rows) * each, head]
            weights = ((query @ keys).float() * scale).softmax(dim=-1)
            weights = torch.nn.functional.pad(weights, (0, blocks * block_size - tokens))
            weights = weights.view(-1, each, blocks, block_size)
            mass[head, first : first + rows] = weights.sum(dim=3).mean(dim=1)
    return mass


def _why_not_kernel(call: Call) -> str | None:
    if not math.log2(call.block_size).is_integer():
        return f"blocks of {call.block_size} are no power of two"
    return triton.why_not_ours(KERNEL, triton.HEAD_DIMS, call)
