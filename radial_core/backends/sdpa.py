"""torch's scaled_dot_product_attention, one call for each query block.

It runs on any device, dtype and head_dim, where no kernel does. The kept keys of a query block are
gathered first, so dropped blocks cost nothing.
"""

import torch
from einops import rearrange
from torch.nn.functional import scaled_dot_product_attention

from ..call import Call, wants_gradients, with_one_gradient_layout
from ..plan import Plan
from .contract import EXACT

ACCURACY = EXACT


def why_not(call: Call) -> str | None:
    if not call.dtype.is_floating_point or call.dtype.itemsize < 2:
        return f"sdpa needs float16, bfloat16, float32 or float64, got {call.dtype}"
    if call.lse:
        return "sdpa has no log-sum-exp to return"
    return None


def run(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    plan: Plan,
    softmax_scale: float,
    return_lse: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    dtype = q.dtype
    if wants_gradients(q, k, v) and dtype.itemsize < 4:
        k, v = k.float(), v.float()  # their gradients are added up over the rows
    if not plan.per_head:
        return _one_list(q, k, v, plan, 0, softmax_scale, dtype), None
    heads = [
        _one_list(*(x[:, :, h : h + 1] for x in (q, k, v)), plan, h, softmax_scale, dtype)
        for h in range(plan.lists)
    ]
    return torch.cat(heads, dim=2), None


def _one_list(q, k, v, plan: Plan, index: int, softmax_scale: float, dtype) -> torch.Tensor:
    """Attention of heads that share one of the plan's lists, in a dtype: (b, s, h, d)."""
    size, out = plan.block_size, []
    bounds = plan.indptr[index].tolist()
    last_seen = plan.indices[plan.indptr[index, 1:] - 1].tolist()
    for p in range(plan.blocks):
        seen = plan.indices[bounds[p] : bounds[p + 1]]
        sees_the_tail = last_seen[p] >= plan.tokens // size  # a last block that is partly filled
        query = q[:, p * size : (p + 1) * size]
        key, value = (_gather(x, seen, sees_the_tail, size).to(dtype) for x in (k, v))
        query, key, value = (rearrange(x, "b s h d -> b h s d") for x in (query, key, value))
        row = scaled_dot_product_attention(query, key, value, scale=softmax_scale)
        out.append(rearrange(with_one_gradient_layout(row), "b h s d -> b s h d"))
    return torch.cat(out, dim=1)


def _gather(x: torch.Tensor, seen: torch.Tensor, sees_the_tail: bool, size: int) -> torch.Tensor:
    """The tokens of the seen blocks of x, in order: (b, s, h, d) -> (b, seen tokens, h, d)."""
    filled = x.shape[1] // size
    head, tail = x[:, : filled * size], x[:, filled * size :]
    if not sees_the_tail:
        return head.unflatten(1, (filled, size)).index_select(1, seen).flatten(1, 2)
    if filled == 0:
        return tail
    head = head.unflatten(1, (filled, size)).index_select(1, seen[:-1]).flatten(1, 2)
    return torch.cat([head, tail], dim=1)
