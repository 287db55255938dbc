"""Attention functions of ComfyUI 0.38, on a CPU: torch's, and comfy-kitchen's in 8 bits."""

import weakref

import torch
from eight_bit import rounded
from torch.nn.functional import scaled_dot_product_attention

from .dispatch import wrap_attn


def heads_first(heads: int, skip_reshape: bool, *tensors):
    if skip_reshape:
        return tensors
    return [x.unflatten(2, (heads, -1)).transpose(1, 2) for x in tensors]


def as_asked(out: torch.Tensor, skip_output_reshape: bool) -> torch.Tensor:
    return out if skip_output_reshape else out.transpose(1, 2).flatten(2)


def note(function, q, k) -> None:
    if q.shape == k.shape:
        function.calls.append(q.shape)


@wrap_attn
def attention_pytorch(
    q,
    k,
    v,
    heads,
    mask=None,
    attn_precision=None,
    skip_reshape=False,
    skip_output_reshape=False,
    **kwargs,
):
    note(attention_pytorch, q, k)
    q, k, v = heads_first(heads, skip_reshape, q, k, v)
    out = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=kwargs.get("scale"))
    return as_asked(out, skip_output_reshape)


@wrap_attn
def attention_comfy_kitchen_int8(
    q,
    k,
    v,
    heads,
    mask=None,
    attn_precision=None,
    skip_reshape=False,
    skip_output_reshape=False,
    **kwargs,
):
    note(attention_comfy_kitchen_int8, q, k)
    q, k, v = heads_first(heads, skip_reshape, q, k, v)
    q, k, v = (rounded(x) for x in (q, k, v))
    return as_asked(int8_attention(q, k, v, mask), skip_output_reshape)


def _attention_comfy_kitchen_int8_containers(
    q, k, v, heads, mask=None, skip_reshape=False, skip_output_reshape=False, **kwargs
):
    """Frees q, k and v once they are quantized, if nobody else has them."""
    q, k, v = q.take(), k.take(), v.take()
    note(attention_comfy_kitchen_int8, q, k)
    tensors = [weakref.ref(x) for x in (q, k, v)]
    q, k, v = (rounded(x).clone() for x in heads_first(heads, skip_reshape, q, k, v))
    freed = all(x() is None for x in tensors)
    attention_comfy_kitchen_int8.freed.append(freed)
    return as_asked(int8_attention(q, k, v, mask), skip_output_reshape)


def int8_attention(q, k, v, mask):
    return scaled_dot_product_attention(q, k, v, attn_mask=mask)


int8_attention.__module__ = "comfy_kitchen"
attention_comfy_kitchen_int8.container_function = _attention_comfy_kitchen_int8_containers
# For the tests. calls: shapes of q in self-attention. freed: of each call in containers, whether it
# had the only references.
attention_pytorch.calls = []
attention_comfy_kitchen_int8.calls, attention_comfy_kitchen_int8.freed = [], []
