"""What a step costs in real models, in FLOP: self-attention among video tokens, and all else."""

from collections.abc import Sequence

from lab import video_models

# Title -> name in the pack's catalog; width, height and frames of the video.
VIDEOS = {
    "Wan 2.1 14B, 69 frames, 768p": ("Wan 2.1 14B", (1280, 768, 69)),
    "MiniMax H3, 15 s, 768p": ("MiniMax H3", (1344, 768, 362)),
}


def attention_shares() -> dict[str, float]:
    """The share of a dense step's FLOP that is attention among video tokens, of each video."""
    found = {}
    for title, (name, video) in VIDEOS.items():
        entry = video_models()[name]
        layout = entry.layout(entry.latent(*video))
        whole = entry.size.attention_flops(layout.tokens) + entry.size.linear_flops * layout.tokens
        found[title] = entry.size.attention_flops(layout.video_tokens) / whole
    return found


def speedup(runs: Sequence[tuple[int, int]], steps: int, attention: float, density: float) -> float:
    """The work of dense videos of so many steps, over that of these runs.

    runs: how many steps of each ran dense, and how many sparse; the others cost nothing. attention:
    the share of a dense step's work that it is. density: the share of it that sparse steps keep.
    """
    sparse_step = 1 - attention * (1 - density)
    work = sum(dense + sparse * sparse_step for dense, sparse in runs)
    return len(runs) * steps / work
