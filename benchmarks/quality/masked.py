"""Runs a video model's self-attention under any block map, exactly, through ComfyUI's own hook.

An attention is a function (q, k, v, layer) -> out of tensors (b, s, h, d), with s a multiple of the
block size; layer is the index of the transformer block.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from masks import block_mass, most_mass
from torch.nn.functional import scaled_dot_product_attention

from radial_core import Plan, RadialPattern, Schedule, VideoLayout
from radial_core.attention import attend
from radial_core.schedule import step_of

SLOT = "optimized_attention_override"
ALWAYS = Schedule()
Attention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, int], torch.Tensor]


def plan_of(kept: torch.Tensor, layout: VideoLayout, block_size: int, device) -> Plan:
    """Any block map as a plan for the radial kernels, which only use its lists."""
    indptr = torch.zeros(1, len(kept) + 1, dtype=torch.int32)
    indptr[0, 1:] = kept.sum(dim=1).cumsum(0)
    indices = kept.nonzero()[:, 1].int()
    mask = RadialPattern(block_size=block_size)
    with torch.inference_mode(False):
        return Plan(mask, layout, indptr.to(device), indices.to(device))


def by_plan(plan: Plan, order: torch.Tensor | None = None) -> Attention:
    """One map for all heads and layers. order: the tokens in the order that the map is for."""
    if order is None:
        return lambda q, k, v, layer: attend(q, k, v, plan)[0]
    order = order.to(plan.device)
    back = order.argsort()

    def attention(q, k, v, layer):
        return attend(*(x[:, order] for x in (q, k, v)), plan)[0][:, back]

    return attention


def by_map(kept: torch.Tensor, block_size: int, device) -> Attention:
    """One map of blocks of any size for all heads and layers: dense attention with a mask."""
    keep = kept.repeat_interleave(block_size, 0).repeat_interleave(block_size, 1).to(device)

    def attention(q, k, v, layer):
        heads = (x.transpose(1, 2) for x in (q, k, v))
        return scaled_dot_product_attention(*heads, attn_mask=keep).transpose(1, 2)

    return attention


def by_head(plans: list[list[Plan]]) -> Attention:
    """A map for each head of each layer."""

    def attention(q, k, v, layer):
        heads = (
            attend(*(x[:, :, head : head + 1] for x in (q, k, v)), plan)[0]
            for head, plan in enumerate(plans[layer])
        )
        return torch.cat(list(heads), dim=2)

    return attention


def oracle(keep: int, block_size: int) -> Attention:
    """For each head and query block of each call, the key blocks with most of the true attention.

    No mask with as many blocks in each row keeps more of the attention, though another may still
    change the output less. It computes the whole map first, so it is not a practical method.
    """

    def attention(q, k, v, layer):
        kept = most_mass(block_mass(q, k, block_size), keep)
        rows = kept.nonzero()[:, -1].unflatten(0, (*kept.shape[:3], keep))
        return gathered(q, k, v, rows, block_size)

    return attention


def gathered(q, k, v, kept: torch.Tensor, block_size: int) -> torch.Tensor:
    """Attention of each query block over its own list of key blocks, all lists equally long.

    q, k, v: (b, s, h, d). kept: int64 (b, h, blocks, key blocks of each).
    """
    heads, blocks = kept.shape[1:3]
    head = torch.arange(heads, device=kept.device)[:, None, None]
    out = []
    for *tensors, rows in zip(q, k, v, kept, strict=True):  # one element at a time, to save memory
        one_q, one_k, one_v = (
            x.transpose(0, 1).unflatten(1, (blocks, block_size)) for x in tensors
        )  # (h, blocks, block, d)
        keys, values = (x[head, rows].flatten(2, 3).flatten(0, 1) for x in (one_k, one_v))
        queries = one_q.flatten(0, 1)
        one = scaled_dot_product_attention(queries[:, None], keys[:, None], values[:, None])
        out.append(one[:, 0].unflatten(0, (heads, blocks)).flatten(1, 2).transpose(0, 1))
    return torch.stack(out)


def masked(model, attention: Attention, tokens: int, schedule: Schedule = ALWAYS):
    """A MODEL whose self-attention over this many tokens is `attention`, except where it is dense.

    Dense calls, by the schedule or because they are of another kind, run ComfyUI's attention.
    """

    def override(func, q, k, v, heads, *args, **kwargs):
        options = kwargs["transformer_options"]
        if not q.shape[1] == k.shape[1] == tokens or _is_dense(schedule, options):
            return func(q, k, v, heads, *args, **kwargs)
        q, k, v = (x.unflatten(-1, (heads, -1)) for x in (q, k, v))
        return attention(q, k, v, options["block_index"]).flatten(2)

    return hooked(model, override)


def _is_dense(schedule: Schedule, options: dict) -> bool:
    sigmas, step = step_of_call(options)
    dense_block = schedule.is_dense_block(options["block_index"])
    return dense_block or schedule.is_dense_step(sigmas, step)


def step_of_call(options: dict) -> tuple[list[float] | None, int | None]:
    """The noise levels of the running sampler, and the step; (None, None) outside a sampler."""
    if options.get("sample_sigmas") is None:
        return None, None
    sigmas = options["sample_sigmas"].tolist()
    return sigmas, step_of(sigmas, options["sigmas"][0].item())


def hooked(model, override: Callable):
    """The MODEL with another attention hook."""
    model = model.clone()
    model.model_options["transformer_options"][SLOT] = override
    return model


@dataclass(frozen=True, eq=False)
class Recorded:
    """A self-attention call of a dense run and its output, (b, s, h, d) each."""

    layer: int
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    out: torch.Tensor


def recorder(model, tokens: int, steps: set[int]) -> tuple[object, list[Recorded]]:
    """A MODEL that runs unchanged, and a list that collects its calls at these steps."""
    calls = []

    def override(func, q, k, v, heads, *args, **kwargs):
        out, options = func(q, k, v, heads, *args, **kwargs), kwargs["transformer_options"]
        if q.shape[1] == k.shape[1] == tokens and step_of_call(options)[1] in steps:
            every = (x.detach().unflatten(-1, (heads, -1)).clone() for x in (q, k, v, out))
            calls.append(Recorded(options["block_index"], *every))
        return out

    return hooked(model, override), calls


def attention_error(attention: Attention, calls: list[Recorded]) -> float:
    """Relative RMS of an attention's output against the dense one, the mean over the calls."""
    found = []
    for call in calls:
        difference = attention(call.q, call.k, call.v, call.layer).float() - call.out.float()
        found.append(difference.norm() / call.out.float().norm())
    return torch.stack(found).mean().item()
