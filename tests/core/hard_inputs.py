"""Inputs that are hard for attention in 8 bits, and how near its output must come to the oracle.

    q, k, v = draw("channel biases", layout, (batch, heads, head_dim), torch.bfloat16)
    assert relative_rms(out, truth) <= HARD["channel biases"].bound

tests/gpu/test_eight_bits.py runs them all; they work at any size, and on a CPU.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from radial_core import Plan, VideoLayout
from radial_core.reference import reference_attention

BAR = 2.5e-2  # the largest relative RMS error of the output
FEW, SHARE = 4, 0.7  # so many channels have this share of K's energy
LOUD = 100.0  # times the others

Change = Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class Hard:
    """change: (q, k, v, random, dtype) -> the hard ones, of float32 (b, s, h, d) normal tensors.

    bound: the largest relative RMS error; None where the output need only be finite. per_head:
    each head is held to the bound by itself. dtypes: in which such values exist.
    """

    change: Change
    bound: float | None = BAR
    per_head: bool = False
    dtypes: tuple[torch.dtype, ...] = (torch.float16, torch.bfloat16)


def draw(
    name: str,
    layout: VideoLayout,
    shape: tuple[int, int, int],
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> list[torch.Tensor]:
    """q, k, v (b, s, h, d) of a name in HARD. shape: batch, heads, head_dim."""
    batch, heads, head_dim = shape
    random = torch.Generator().manual_seed(seed)  # the same values on every device
    size = (3, batch, layout.tokens, heads, head_dim)
    q, k, v = torch.randn(size, generator=random).unbind(0)
    changed = HARD[name].change(q, k, v, random, dtype)
    return [x.to(dtype).to(device) for x in changed]


def relative_rms(x: torch.Tensor, truth: torch.Tensor) -> float:
    """|x - truth| / |truth|; 0 where both are 0."""
    apart, size = (x.double() - truth).norm(), truth.double().norm()
    return 0.0 if apart == 0 else (apart / size).item()


def error_of(name: str, out: torch.Tensor, truth: torch.Tensor) -> float:
    """The error of an output (b, s, h, d) that is held to HARD[name].bound."""
    if not HARD[name].per_head:
        return relative_rms(out, truth)
    return max(relative_rms(out[:, :, h], truth[:, :, h]) for h in range(out.shape[2]))


def loud_token(layout: VideoLayout) -> int:
    """The token whose value is LOUD times the others' in "one loud token"."""
    return layout.prefix + layout.video_tokens * 3 // 4


def errors_of_loud_token(
    out: torch.Tensor, truth: torch.Tensor, q, k, v, plan: Plan
) -> tuple[float, float]:
    """What is fair if one token's value is 100 times the others'; both at most BAR.

    In 8 bits the values that share a scale with it are lost, so that what is left of them is no
    measure. First: the relative RMS error of the query blocks that do not attend to its block; the
    loud token must not touch them. Second: the RMS error of those that do, relative to attention
    over |v|, the size of what was added up.
    """
    block = loud_token(plan.layout) // plan.block_size
    hears = plan.block_mask()[..., block].view(-1, plan.blocks).any(dim=0)
    hears = hears.repeat_interleave(plan.block_size)[: plan.tokens]
    size = reference_attention(q, k, v.abs(), plan)[:, hears]
    apart = (out.double() - truth)[:, hears]
    return relative_rms(out[:, ~hears], truth[:, ~hears]), (apart.norm() / size.norm()).item()


def in_few_channels(k: torch.Tensor, channels: torch.Tensor, keep_energy: bool) -> torch.Tensor:
    """k (b, s, h, d) of equal channels with 70 % of its energy in these.

    keep_energy: the others shrink, so that logits stay as large as they were.
    """
    before, others = 1 / k.shape[-1], (1 - SHARE) / (k.shape[-1] - len(channels))
    energy = torch.full(k.shape[-1:], others)
    energy[channels] = SHARE / len(channels)
    return k * (energy / (before if keep_energy else others)).sqrt()


def _biases(x: torch.Tensor, random) -> torch.Tensor:
    """One for each channel of each batch and head, 1 to 3 in size."""
    uniform = torch.rand((2, x.shape[0], 1, *x.shape[2:]), generator=random)
    return (1 + 2 * uniform[0]) * (uniform[1] - 0.5).sign()


def _channel_biases(q, k, v, random, dtype):
    return tuple(x + _biases(x, random) for x in (q, k, v))


def _biases_of_q_and_k(q, k, v, random, dtype):
    """Without one of v, its values cancel: the same error weighs more."""
    return q + _biases(q, random), k + _biases(k, random), v


def _few_channels(keep_energy: bool) -> Change:
    def change(q, k, v, random, dtype):
        channels = torch.randperm(k.shape[-1], generator=random)[:FEW]
        return q, in_few_channels(k, channels, keep_energy), v

    return change


def _common_bias(q, k, v, random, dtype):
    """Far from 0, keys differ little. It adds the same to all of a query's logits."""
    return q, k + 10 * _biases(k, random).sign(), v


def _loud_head(q, k, v, random, dtype):
    v[:, :, 0] *= LOUD
    return q, k, v


def _one_large_logit(q, k, v, random, dtype):
    at = q.shape[1] // 2
    k[:, -1] = q[:, at]
    q[:, at] *= 1000
    return q, k, v


def _attention_sink(q, k, v, random, dtype):
    """The first key gets most of the attention and adds nothing: what counts is the small rest."""
    q, k = q.abs(), k.clone()
    k[:, 0], v[:, 0] = 0.9, 0
    return q, k, v


def _equal_rows(q, k, v, random, dtype):
    return tuple(x[:, :1].expand_as(x).clone() for x in (q, k, v))


def _denormal(q, k, v, random, dtype):
    return tuple(x * (torch.finfo(dtype).tiny / 4) for x in (q, k, v))


def _denormal_q_and_k(q, k, v, random, dtype):
    return *_denormal(q, k, v, random, dtype)[:2], v


def _scaled(of_q: float = 1, of_k: float = 1, of_v: float = 1) -> Change:
    return lambda q, k, v, random, dtype: (of_q * q, of_k * k, of_v * v)


WIDE = (torch.bfloat16,)  # fp16 has no such values
HARD = {
    "normal": Hard(_scaled()),
    "channel biases": Hard(_channel_biases),
    "channel biases of q and k": Hard(_biases_of_q_and_k, bound=None),
    "70 % of K in 4 channels": Hard(_few_channels(keep_energy=True)),
    "4 channels of K louder, to 70 %": Hard(_few_channels(keep_energy=False), bound=None),
    "a key bias of 10": Hard(_common_bias),
    "one loud head": Hard(_loud_head, per_head=True),
    "large v, 1e4": Hard(_scaled(of_v=1e4)),
    "large v, 1e5": Hard(_scaled(of_v=1e5), dtypes=WIDE),
    "large v, 1e6": Hard(_scaled(of_v=1e6), dtypes=WIDE),
    "constant key": Hard(lambda q, k, v, *_: (q, k[:, :1].expand_as(k).clone(), v)),
    "constant v": Hard(lambda q, k, v, *_: (q, k, v[:, :1].expand_as(v).clone())),
    "equal rows": Hard(_equal_rows),
    "zeros": Hard(_scaled(0, 0, 0)),
    "zero q": Hard(_scaled(of_q=0)),
    "denormal q and k": Hard(_denormal_q_and_k),
    "denormals": Hard(_denormal, bound=None),
    "one large logit": Hard(_one_large_logit, bound=None),
    "logits in the thousands": Hard(_scaled(30, 30), bound=None),
    "attention sink": Hard(_attention_sink, bound=None),
}


def draw_loud_token(layout: VideoLayout, shape, dtype, device="cpu") -> list[torch.Tensor]:
    """For `errors_of_loud_token`: normal q, k, v (b, s, h, d) with one token's v 100 times larger.

    Not in HARD, as it is held to another measure.
    """
    q, k, v = draw("normal", layout, shape, dtype, device)
    v[:, loud_token(layout)] *= LOUD
    return [q, k, v]
