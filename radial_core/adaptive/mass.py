"""Block mass: how much of its attention each query block gives to each key block."""

import math

import torch

from ..backends import triton
from ..call import Call, call_key
from .proven import by_kernel

# One in so many queries of a block is asked, which costs a quarter of the products. In the quality
# lab, lists from a quarter of the queries are as good as those from all of them within the error.
EVERY = 4
SCORES_AT_ONCE = 2**24  # bounds the scratch memory where there is no kernel

KERNEL = "block mass"
PROOF_BLOCKS, PROOF_HEADS = 35, 2  # more than a program takes, and the last one partly filled
PROOF_FACTOR = 3.0  # on q: some keys stand out, and their blocks
TOLERANCE = 1e-3


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
    asked_for = (queries, k, each, block_size, scale)
    mass = by_kernel(KERNEL, call, _why_not_kernel, _fault, lambda: _kernel(*asked_for))
    return by_torch(*asked_for) if mass is None else mass


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
            # Scaled before the product, which might overflow in float16.
            query = queries[first * each : (first + rows) * each, head] * scale
            weights = (query @ keys).float().softmax(dim=-1)
            weights = torch.nn.functional.pad(weights, (0, blocks * block_size - tokens))
            weights = weights.view(-1, each, blocks, block_size)
            mass[head, first : first + rows] = weights.sum(dim=3).mean(dim=1)
    return mass


def _why_not_kernel(call: Call) -> str | None:
    if not math.log2(call.block_size).is_integer():
        return f"blocks of {call.block_size} are no power of two"
    return triton.why_not_ours(KERNEL, triton.HEAD_DIMS, call)


def _kernel(*arguments) -> torch.Tensor:
    from ..kernels import block_mass_launch

    return block_mass_launch.run(*arguments)


def _fault(call: Call) -> str | None:
    """What is wrong with the kernel's result on a small case, against torch's in float32."""
    size, each = call.block_size, call.block_size // EVERY
    # A generator of our own: the user's seed must give the same video with and without a proof.
    random = torch.Generator().manual_seed(0)
    tokens = PROOF_BLOCKS * size - size // 2 - 5
    drawn = torch.randn(2, tokens, PROOF_HEADS, 3, call.head_dim, generator=random).to(call.dtype)
    q, k = drawn[0, :, :, 0] * PROOF_FACTOR, drawn[1, :, :, 1]  # k is a part of a larger tensor
    queries = q[asked(tokens, size, q.device)]
    rest = (each, size, call.head_dim**-0.5)
    ours = _kernel(queries.to(call.device), drawn[1].to(call.device)[:, :, 1], *rest).cpu()
    true = by_torch(queries.float(), k.float(), *rest)
    error = ((ours - true).norm() / true.norm()).item()
    return None if error <= TOLERANCE else f"its relative error is {error:.1e}"
