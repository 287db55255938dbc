"""How much faster a model's forward pass becomes: an estimate, from counts of work.

Each kind of work is divided by the speed at which an H100 does it, as measured. Other cards are
slower, but by about the same factor for each kind, and only the ratios matter here. How close the
estimate comes to what was measured: tests/core/test_estimate.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import harmonic_mean

# FLOP/s of attention on an H100, from benchmarks/results/attention-h100.json. Over its four sizes
# sparse attention ("auto") reaches 602 to 675 TFLOP/s, the fastest exact dense kernel
# ("dense-flash_attention") 652 to 667, and what ComfyUI runs by default ("dense-sdpa-flash") 335 to
# 359.
SPARSE_ATTENTION = 640e12
DENSE_ATTENTION = 665e12
DENSE_ATTENTION_BY_DEFAULT = 345e12
# From the profiles in benchmarks/results/end_to_end-h100.json: FLOP/s of the linear layers, and the
# seconds that norms, rotations, gates and copies take for each token, block and channel. The latter
# are 2e-11 in fused blocks (Wan, HunyuanVideo) and 8e-11 in others (Mochi).
LINEAR_LAYERS = 735e12
SECONDS_PER_CHANNEL = 4.5e-11


@dataclass(frozen=True)
class ModelSize:
    """What determines the work of a video model.

    blocks: transformer blocks with self-attention over the video. linear_flops: FLOPs per token of
    all linear layers in all blocks, 2 for each weight that a token passes through.
    """

    blocks: int
    heads: int
    head_dim: int
    linear_flops: float

    def attention_flops(self, tokens: int) -> float:
        """FLOPs of dense self-attention in all blocks: q k^T, and the product with v."""
        return 4.0 * tokens**2 * self.heads * self.head_dim * self.blocks


@dataclass(frozen=True)
class Estimate:
    """Speed-ups over dense attention by the fastest exact kernel, except where said otherwise.

    attention_speedup: of the self-attention of all blocks. step_speedup: of a whole forward pass.
    step_speedup_over_default: of a whole pass, over ComfyUI's default dense attention on an H100,
    which has half the speed of the fastest. kept_work: the share of the FLOPs of self-attention, in
    all blocks, that is left.
    """

    attention_speedup: float
    step_speedup: float
    step_speedup_over_default: float
    kept_work: float


def estimate(size: ModelSize, tokens: int, density: float, dense_blocks: int = 0) -> Estimate:
    """The speed-up of a forward pass over so many tokens, with sparse attention.

    density: the kept share of the block map. dense_blocks: how many transformer blocks stay dense.
    Dense steps are not accounted for.
    """
    dense = min(dense_blocks, size.blocks) / size.blocks
    work = size.attention_flops(tokens)
    channels = size.heads * size.head_dim
    linear = size.linear_flops * tokens / LINEAR_LAYERS
    rest = linear + SECONDS_PER_CHANNEL * tokens * size.blocks * channels
    full = work / DENSE_ATTENTION
    radial = dense * full + (1 - dense) * density * work / SPARSE_ATTENTION
    return Estimate(
        attention_speedup=full / radial,
        step_speedup=(full + rest) / (radial + rest),
        step_speedup_over_default=(work / DENSE_ATTENTION_BY_DEFAULT + rest) / (radial + rest),
        kept_work=dense + (1 - dense) * density,
    )


def run_speedups(steps: Sequence[Estimate]) -> tuple[float, float]:
    """The speed-ups of a whole run: over the fastest exact kernel, and over ComfyUI's default.

    steps: one for each. A dense step is one with all blocks dense.
    """
    return (
        harmonic_mean([step.step_speedup for step in steps]),
        harmonic_mean([step.step_speedup_over_default for step in steps]),
    )
