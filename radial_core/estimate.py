"""How much faster radial attention makes a pass of a model: an estimate, from counts of work."""

from dataclasses import dataclass


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


@dataclass(frozen=True)
class Estimate:
    """attention_speedup: of the self-attention of all blocks. step_speedup: of a whole pass."""

    attention_speedup: float
    step_speedup: float


def estimate(size: ModelSize, tokens: int, density: float, dense_blocks: int = 0) -> Estimate:
    """The speed-up of a pass over so many tokens that keeps `density` of the block map."""
    raise NotImplementedError
