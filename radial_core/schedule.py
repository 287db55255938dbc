"""Which steps and blocks stay dense."""

from collections.abc import Sequence
from dataclasses import dataclass

# A schedule that ends below this share of its first sigma ends at a clean video.
CLEAN = 0.01
# A sigma this near to the start of a step, as a share of the step before, counts as that start:
# samplers that work with log sigma (uni_pc, the dpmpp family) return it with a rounding error.
NEAR = 0.01


@dataclass(frozen=True)
class Schedule:
    """The first and last steps, and the first transformer blocks, that keep dense attention.

    dense_steps: first steps of the sampler at hand.
    dense_last_steps: last steps, if the sampler goes on to the clean video. One that hands over
        earlier (KSamplerAdvanced, the high-noise expert of Wan 2.2) has no last steps.
    dense_blocks: first transformer blocks, at every step.

    Raises ValueError if one is not a whole number from 0 up.
    """

    dense_steps: int = 0
    dense_last_steps: int = 0
    dense_blocks: int = 0

    def __post_init__(self):
        for name in ("dense_steps", "dense_last_steps", "dense_blocks"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ValueError(f"{name} must be a whole number from 0 up, got {value!r}")

    def is_dense_step(self, sigmas: Sequence[float] | None, step: int | None) -> bool:
        """Whether a step is dense at every block.

        sigmas: the steps + 1 noise levels of this sampler. step: see `step_of`; None when there is
        no schedule (as in training), and then it is not dense.
        """
        if step is None:
            return False
        if step < self.dense_steps:
            return True
        return step >= len(sigmas) - 1 - self.dense_last_steps and ends_clean(sigmas)

    def is_dense_block(self, block_index: int | None) -> bool:
        """Whether a transformer block is dense at every step; one of unknown index is not."""
        return block_index is not None and block_index < self.dense_blocks


def ends_clean(sigmas: Sequence[float]) -> bool:
    """Whether a sampler with these noise levels goes on to the clean video."""
    return abs(sigmas[-1]) <= CLEAN * abs(sigmas[0])


def step_of(sigmas: Sequence[float] | None, sigma: float | None) -> int | None:
    """The step, from 0, whose noise levels [sigmas[i], sigmas[i + 1]) hold `sigma`.

    A sampler may call the model between two noise levels (dpm_2, heun, uni_pc), or a little above
    the first one: each call belongs to the step it falls in. Schedules may fall or, for inversion,
    rise. None when there is no schedule.
    """
    if sigmas is None or sigma is None or len(sigmas) < 2:
        return None
    sign = -1 if sigmas[0] > sigmas[-1] else 1
    rising = [sign * s for s in sigmas]
    step = 0
    for i in range(1, len(sigmas) - 1):
        if sign * sigma >= rising[i] - NEAR * (rising[i] - rising[i - 1]):
            step = i
    return step
