"""Muon: momentum whose matrices are orthogonalized before they are added to the weights.

Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/. In a given time it learns more than
AdamW. The update is that of `torch.optim.Muon` with adjust_lr_fn "match_rms_adamw", which loops
over the matrices; here all of one shape are a batch, about 3 ms a step at the lab's size.
"""

import math

import torch

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


class Muon:
    """weights: matrices. The RMS of a step's change is 0.2 times the rate."""

    def __init__(self, weights: list[torch.Tensor], decay: float = 0.01):
        self.decay = decay
        self.shapes: dict[torch.Size, list[torch.Tensor]] = {}
        for weight in weights:
            self.shapes.setdefault(weight.shape, []).append(weight)
        self.momenta = {
            shape: [torch.zeros_like(each) for each in same] for shape, same in self.shapes.items()
        }

    @torch.no_grad()
    def step(self, rate: float):
        """Update the weights, all of which must have a gradient."""
        for shape, weights in self.shapes.items():
            momenta, gradients = self.momenta[shape], [each.grad for each in weights]
            torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
            ahead = torch._foreach_lerp(gradients, momenta, MOMENTUM)  # Nesterov's
            update = orthogonal(torch.stack(ahead)) * (0.2 * math.sqrt(max(shape)))
            torch._foreach_mul_(weights, 1 - rate * self.decay)
            torch._foreach_add_(weights, list(update.float()), alpha=-rate)


def orthogonal(x: torch.Tensor) -> torch.Tensor:
    """Matrices (n, rows, columns) with singular values of about 1, by Newton-Schulz."""
    if x.shape[1] > x.shape[2]:
        return orthogonal(x.mT).mT
    if x.is_cuda:
        x = x.bfloat16()  # precise enough, but slow on a CPU
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        gram = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, gram, x, beta=a)
    return x
