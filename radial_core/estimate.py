"""How much faster radial attention makes a pass of a model: an estimate, from counts of work.

The work is divided by what an H100 does in a second, as measured. On another card all of these are
smaller, but not far from in proportion to each other, and only their proportions count here: for
what has been measured, tests/core/test_estimate.py says how near the estimate comes.
"""

from dataclasses import dataclass

# FLOP/s of attention, benchmarks/results/attention-h100.json: "auto" at four sizes (602 to 675),
# "dense-flash_attention" (652 to 667), "dense-sdpa-flash" (335 to 359), which ComfyUI runs there.
RADIAL = 640e12
FULL = 665e12
FULL_BY_DEFAULT = 345e12
# FLOP/s of the linear layers, and seconds that norms, rotations, gates and copies take for each
# token, block and channel: the profiles in benchmarks/results/end_to_end-h100.json. The latter are
# 2e-11 where blocks run fused (Wan, HunyuanVideo), 8e-11 where not (Mochi).
LINEAR = 735e12
OTHER = 4.5e-11


@dataclass(frozen=True)
class ModelSize:
    """What the work of a video model is made of.

    blocks: transformer blocks with self-attention over the video. linear_flops: per token, of all
    linear layers in all blocks: 2 for each weight that a token passes.
    """

    blocks: int
    heads: int
    head_dim: int
    linear_flops: float

    def attention_flops(self, tokens: int) -> float:
        """Of the self-attention of all blocks, full: q k^T and the product with v."""
        return 4.0 * tokens**2 * self.heads * self.head_dim * self.blocks


@dataclass(frozen=True)
class Estimate:
    """How many times as fast as full attention by the fastest exact kernel.

    attention_speedup: of the self-attention of all blocks. step_speedup: of a whole pass.
    step_speedup_over_default: of a whole pass against full attention as ComfyUI runs it by default,
    on an H100, where that has half the speed of the fastest. kept_work: share of the FLOPs of the
    self-attention of all blocks.
    """

    attention_speedup: float
    step_speedup: float
    step_speedup_over_default: float
    kept_work: float


def estimate(size: ModelSize, tokens: int, density: float, dense_blocks: int = 0) -> Estimate:
    """The speed-up of a pass over so many tokens that keeps `density` of the block map.

    dense_blocks: how many of the blocks keep full attention. Dense steps are not in it.
    """
    dense = min(dense_blocks, size.blocks) / size.blocks
    work = size.attention_flops(tokens)
    channels = size.heads * size.head_dim
    rest = size.linear_flops * tokens / LINEAR + OTHER * tokens * size.blocks * channels
    full = work / FULL
    radial = dense * full + (1 - dense) * density * work / RADIAL
    return Estimate(
        attention_speedup=full / radial,
        step_speedup=(full + rest) / (radial + rest),
        step_speedup_over_default=(work / FULL_BY_DEFAULT + rest) / (radial + rest),
        kept_work=dense + (1 - dense) * density,
    )
