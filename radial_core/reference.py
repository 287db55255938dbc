"""The oracle: masked attention in float64, in the plainest code. Slow; memory in tokens squared."""

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
    scale = q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
    q, k, v = (x.double() for x in (q, k, v))
    block = torch.arange(plan.tokens, device=q.device) // plan.block_size
    keep = plan.block_mask()[block[:, None], block]  # (query tokens, key tokens)

    out = torch.empty_like(v)
    for b in range(q.shape[0]):
        for h in range(q.shape[2]):
            scores = q[b, :, h] @ k[b, :, h].T * scale
            scores = scores.masked_fill(~keep, -torch.inf)
            out[b, :, h] = scores.softmax(dim=-1) @ v[b, :, h]
    return out
