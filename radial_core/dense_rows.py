"""Dense attention of a few queries: of those that attend to everything, which
`Plan.bounded_table` leaves out, and of those by which adaptive/repair.py goes.
"""

from collections.abc import Sequence

import torch
from torch.nn.functional import scaled_dot_product_attention

from .call import capability, readable

MOST_FLASH = 256  # head_dim of torch's FlashAttention
aten = torch.ops.aten


def fill_dense_rows(
    out: torch.Tensor,
    lse: torch.Tensor | None,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    rows: Sequence[slice],
    softmax_scale: float,
) -> None:
    """Write dense attention of some query tokens over all keys into out and lse, in place.

    q, k, v, out: (b, s, h, d). lse: (b, h, s), natural log, or None. Without gradients.
    """
    if not rows:
        return
    k, v = (readable(x).transpose(1, 2) for x in (k, v))
    for part in rows:
        query = readable(q[:, part]).transpose(1, 2)
        if lse is None:
            found = scaled_dot_product_attention(query, k, v, scale=softmax_scale)
        else:
            found, found_lse = _with_lse(query, k, v, softmax_scale)
            lse[:, :, part] = found_lse[:, :, : query.shape[2]]
        out[:, part] = found.transpose(1, 2)


def dense_rows(
    queries: torch.Tensor, k: torch.Tensor, v: torch.Tensor, softmax_scale: float
) -> torch.Tensor:
    """Dense attention of some queries, (b, rows, h, d), over all keys, (b, s, h, d); like queries.

    Without gradients.
    """
    q, k, v = (readable(x).transpose(1, 2) for x in (queries, k, v))
    if _takes_flash(q):
        # cuDNN, which torch prefers on Hopper, takes 1.5 times as long for so few queries.
        out = aten._scaled_dot_product_flash_attention(q, k, v, scale=softmax_scale)[0]
    else:
        out = scaled_dot_product_attention(q, k, v, scale=softmax_scale)
    return out.transpose(1, 2)


def _takes_flash(q: torch.Tensor) -> bool:
    """Whether torch's FlashAttention can. Its builds for Windows lack it. q: (b, h, s, d)."""
    fits = q.shape[-1] <= MOST_FLASH and q.shape[-1] % 8 == 0
    is_half = q.dtype in (torch.float16, torch.bfloat16)
    is_new = capability(q.device) >= (8, 0)
    return fits and is_half and is_new and torch.backends.cuda.is_flash_attention_available()


def _with_lse(q, k, v, softmax_scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """What scaled_dot_product_attention runs, which has the lse; some pad that at its end."""
    if q.device.type == "cpu":
        return aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, scale=softmax_scale)
    if _takes_flash(q):
        return aten._scaled_dot_product_flash_attention(q, k, v, scale=softmax_scale)[:2]
    attend = aten._scaled_dot_product_efficient_attention
    return attend(q, k, v, None, True, scale=softmax_scale)[:2]
