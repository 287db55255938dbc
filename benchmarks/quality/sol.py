"""ComfyUI's own sparse attention: comfy-kitchen's sol_attn, as ComfyUI's node uses it.

The node is "Model Sparse Attention" (comfy_extras/nodes_sparse_attention.py), which ComfyUI 0.30.0
does not have yet. Each query block of 64 attends exactly to its neighbours and to the key blocks
whose pooled score is `tau` standard deviations above the mean, and to every other block as one
pooled key and value. By default the node keeps the first 20 % of the schedule dense, runs videos
below 12,288 tokens dense (not so in the lab), and adds the 256 highest-scoring tokens. The kernel
is int8.
"""

from inspect import signature

import torch

TAU = 1.3
EXTRA_TOKENS = 256
DENSE_SHARE = 0.2  # of the steps
BLOCK = 64
NEIGHBOURS = 1  # blocks on each side that are always computed exactly


def why_not(device: torch.device) -> str | None:
    """Why it can't run on this device; None if it can."""
    try:
        from comfy_kitchen import sol_attn, sol_attn_is_available
    except ImportError as error:
        return f"this comfy-kitchen has no sol_attn ({error})"
    if not sol_attn_is_available(device):
        return f"comfy-kitchen has no compiled sol_attn for {device}"
    if "token_aug" not in signature(sol_attn).parameters:
        return "this comfy-kitchen's sol_attn has no extra tokens, which the node uses"
    return None


def sol(tau: float):
    """An attention, as masked.py defines it."""
    from comfy_kitchen import sol_attn

    def attention(q, k, v, layer):
        return sol_attn(q, k, v, tau=tau, token_aug=EXTRA_TOKENS)

    return attention


def density(q: torch.Tensor, k: torch.Tensor, tau: float) -> float:
    """The share of the map that it computes exactly, by its rule. q, k: (b, s, h, d).

    Includes the extra tokens, but not the pooled blocks, which add 1/64.
    """
    scale = q.shape[-1] ** -0.5
    q, k = (x.float().unflatten(1, (-1, BLOCK)).mean(dim=2).transpose(1, 2) for x in (q, k))
    k = k - k.mean(dim=2, keepdim=True)  # (b, h, blocks, d)
    spread = (q.square() * k.square().mean(dim=2, keepdim=True)).sum(dim=-1).sqrt()
    exact = q @ k.transpose(-1, -2) * scale > (tau * scale * spread)[..., None]
    block = torch.arange(q.shape[2], device=q.device)
    exact |= (block[:, None] - block).abs() <= NEIGHBOURS
    return exact.float().mean().item() + EXTRA_TOKENS / (BLOCK * len(block))
