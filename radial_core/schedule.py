"""Which steps and blocks stay dense."""

from collections.abc import Sequence
from dataclasses import dataclass

# A schedule whose last sigma is below this share of its first ends at a clean video.
CLEAN = 0.01
# A sigma this close to the start of a step, as a share of the step before, counts as that start:
# samplers that work with log sigma (uni_pc, the dpmpp family) return it with a rounding error.
ROUNDING = 0.01


@dataclass(frozen=True)
class Schedule:
    """How many steps and transformer blocks keep dense attention.

    dense_steps: the first steps of the current sampler.
    dense_last_steps: its last steps, if it samples down to the clean video. One that hands over
        earlier (KSamplerAdvanced, the high-noise expert of Wan 2.2) has no last steps.
    dense_blocks: the first transformer blocks, at every step.

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
        """Whether a step is dense in every block.

        sigmas: the noise levels of this sampler, one more than steps, as sigmas or as in
        noise_levels.py. step: see `step_of`. None, where there is no schedule (as in training), is
        not dense.
        """
        if step is None:
            return False
        if step < self.dense_steps:
            return True
        return step >= len(sigmas) - 1 - self.dense_last_steps and ends_clean(sigmas)

    def is_dense_block(self, block_index: int | None) -> bool:
        """Whether a transformer block is dense at every step. None, an unknown index, is not."""
        return block_index is not None and block_index < self.dense_blocks


def ends_clean(sigmas: Sequence[float]) -> bool:
    """Whether a sampler with these noise levels samples down to the clean video."""
    return abs(sigmas[-1]) <= CLEAN * abs(sigmas[0])


def step_of(sigmas: Sequence[float] | None, sigma: float | None) -> int | None:
    """The step i, from 0, whose noise levels [sigmas[i], sigmas[i + 1]) contain `sigma`.

    A sampler may call the model between two noise levels (dpm_2, heun, uni_pc), or a little above
    the first one: each call belongs to the step it falls into. Schedules may fall or, for
    inversion, rise. None if there is no schedule.
    """
    if sigmas is None or sigma is None or len(sigmas) < 2:
        return None
    sign = -1 if sigmas[0] > sigmas[-1] else 1
    rising = [sign * s for s in sigmas]
    step = 0
    for i in range(1, len(sigmas) - 1):
        if sign * sigma >= rising[i] - ROUNDING * (rising[i] - rising[i - 1]):
            step = i
    return step
