"""An 8-bit backend in plain torch, for tests: what such a kernel rounds, without its speed."""

from types import ModuleType

import torch

from radial_core import RadialPattern, VideoLayout, make_plan
from radial_core.backends.contract import Accuracy

BAR = 2.5e-2
ACCURACY = Accuracy(False, dict.fromkeys((torch.float16, torch.bfloat16, torch.float32), BAR))


def in_8_bits(x: torch.Tensor, dim: int) -> torch.Tensor:
    """x rounded to 255 levels of the largest value along a dimension."""
    step = x.abs().amax(dim=dim, keepdim=True) / 127
    return torch.where(step > 0, (x / step).round() * step, 0)


def _hadamard(size: int) -> torch.Tensor:
    """A rotation that spreads a channel over all of them; size: a power of 2."""
    pair, matrix = torch.tensor([[1.0, 1.0], [1.0, -1.0]]).double(), torch.ones(1, 1).double()
    while len(matrix) < size:
        matrix = torch.kron(pair, matrix)
    return matrix / size**0.5


def _run(q, k, v, plan, softmax_scale, return_lse, centred, rotated, values_by_block):
    size, dtype = plan.block_size, q.dtype
    q, k, v = (x.double().transpose(1, 2) for x in (q, k, v))  # (b, h, s, d)
    mean = k.mean(dim=2, keepdim=True) if centred else torch.zeros_like(k[:, :, :1])
    turn = _hadamard(q.shape[-1]) if rotated else torch.eye(q.shape[-1]).double()
    query, key = (in_8_bits(x @ turn, -1) for x in (q, k - mean))
    scores = query @ key.transpose(2, 3) * softmax_scale
    block = torch.arange(plan.tokens) // size
    scores.masked_fill_(~plan.block_mask()[..., block[:, None], block], -torch.inf)
    top = scores.amax(dim=-1, keepdim=True)
    weights, out = (scores - top).exp(), 0
    for keys in torch.arange(plan.tokens).split(size if values_by_block else plan.tokens):
        tile = torch.cat([in_8_bits(part, -1) for part in weights[..., keys].split(size, -1)], -1)
        out = out + tile @ in_8_bits(v[:, :, keys], 2)
    total = weights.sum(dim=-1, keepdim=True)
    out = (out / total).transpose(1, 2).to(dtype)
    lse = top + total.log() + q @ mean.transpose(2, 3) * softmax_scale
    return out, lse[..., 0].float() if return_lse else None


def backend(centred=True, rotated=True, values_by_block=True) -> ModuleType:
    """A module like those in radial_core/backends, for a CPU.

    Int8 are q and k by row, both in rotated channels, k less its mean over tokens (centred);
    weights by row and key block; v by channel and key block, or by channel of the whole sequence.
    """
    made = ModuleType("radial_core.backends.fake_int8")

    def run(q, k, v, plan, softmax_scale, return_lse):
        return _run(*(q, k, v, plan, softmax_scale, return_lse), centred, rotated, values_by_block)

    def dense(q, k, v, softmax_scale):
        everything = make_plan(RadialPattern(), VideoLayout(1, 1, q.shape[1]))
        return run(q, k, v, everything, softmax_scale, False)[0]

    made.ACCURACY, made.run, made.dense = ACCURACY, run, dense
    made.why_not = made.why_not_dense = lambda call: "no gradients" if call.grad else None
    return made
