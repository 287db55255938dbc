"""The oracle: masked attention in float64, in the plainest code. Slow; memory is tokens squared."""

from itertools import product

import torch

from .plan import Plan


def reference_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    plan: Plan,
    softmax_scale: float | None = None,
) -> torch.Tensor:
    """softmax(q k^T * softmax_scale, over the kept keys only) v.

    q, k, v: (b, s, h, d). Returns float64 (b, s, h, d). The scale is d ** -0.5 if None.
    """
    out = torch.empty(v.shape, dtype=torch.float64, device=v.device)
    for b, h, scores in _scores_of_each_head(q, k, plan, softmax_scale):
        out[b, :, h] = scores.softmax(dim=-1) @ v[b, :, h].double()
    return out


def reference_lse(
    q: torch.Tensor, k: torch.Tensor, plan: Plan, softmax_scale: float | None = None
) -> torch.Tensor:
    """log(sum(exp(q k^T * softmax_scale), over the kept keys only)), float64 (b, h, s)."""
    batch, tokens, heads, _ = q.shape
    lse = torch.empty(batch, heads, tokens, dtype=torch.float64, device=q.device)
    for b, h, scores in _scores_of_each_head(q, k, plan, softmax_scale):
        lse[b, h] = scores.logsumexp(dim=-1)
    return lse


def _scores_of_each_head(q, k, plan, softmax_scale):
    """Batch index, head, and the scores (query tokens, key tokens), -inf where dropped."""
    scale = q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
    block = torch.arange(plan.tokens, device=q.device) // plan.block_size
    kept = plan.block_mask()[..., block[:, None], block]  # (s, s), or (h, s, s)
    dropped = (~kept).expand(q.shape[2], -1, -1)
    for b, h in product(range(q.shape[0]), range(q.shape[2])):
        scores = q[b, :, h].double() @ k[b, :, h].double().T
        yield b, h, scores.mul_(scale).masked_fill_(dropped[h], -torch.inf)
