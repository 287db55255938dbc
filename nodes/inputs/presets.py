"""The presets of Radial Attention Patch: how near to dense attention, and how fast.

A preset decides how many steps are dense and how many blocks the others keep, in adaptive lists.
In the quality lab these are nearer than radial ones at any speed. Decay, sink frames
and dense blocks are the model's own values for the length of the video (nodes/families/).
"""

from dataclasses import dataclass

from .checks import check_choice, read_block_size
from .settings import ADAPTIVE, LONG_DENSE_STEPS, QUARTER, Settings, read_settings

CUSTOM, CLOSER, BALANCED, FASTER = PRESET_NAMES = "custom", "closer", "balanced", "faster"
DEFAULT = BALANCED  # of a new node. A graph that says nothing was saved before, and is custom.


@dataclass(frozen=True)
class NodePreset:
    """What a preset decides.

    dense: the share of the steps that are dense, rounded down, but at least one step where a
    sampler begins in noise. long_dense_steps: at most so many in videos longer than the model was
    trained on; None for no limit. budget: of adaptive lists, as a share of the radial mask's
    blocks. early: that of lists that are found before the share `until` of the steps, until they
    are found again then; None for the same. about: for a person to read. times_as_fast: as
    ComfyUI's default. psnr: likeness to the dense video, dB. Both are from
    benchmarks/results/quality-front-h200.json.
    """

    dense: float
    dense_last_steps: int
    budget: float
    about: str
    times_as_fast: float
    psnr: int
    early: float | None = None
    until: float = QUARTER
    long_dense_steps: int | None = LONG_DENSE_STEPS


PRESETS = {
    CLOSER: NodePreset(
        dense=0.5,
        dense_last_steps=1,
        budget=1.0,
        long_dense_steps=None,
        about="nearest to the video without this node",
        times_as_fast=2.0,
        psnr=42,
    ),
    BALANCED: NodePreset(
        dense=0.25,
        dense_last_steps=0,
        early=1.0,
        until=0.5,
        budget=0.33,
        about="nearer to it than the paper's settings, and faster",
        times_as_fast=2.7,
        psnr=34,
    ),
    FASTER: NodePreset(
        dense=0.04,
        dense_last_steps=0,
        early=1.5,
        budget=0.33,
        about="a little less near than the paper's settings, in half of the attention's time",
        times_as_fast=3.3,
        psnr=28,
    ),
}
# The same figures of the paper's settings.
PAPER_TIMES_AS_FAST, PAPER_PSNR = 2.5, 29


def choose_settings(preset, *, block_size, **inputs) -> Settings:
    """From a node's inputs. Of those of `read_settings`, a preset leaves only block_size.

    Raises ValueError if an input that counts is impossible.
    """
    check_choice("preset", preset, PRESET_NAMES)
    if preset == CUSTOM:
        return read_settings(block_size=block_size, **inputs)
    return settings_of(preset, read_block_size(block_size))


def settings_of(preset: str, block_size: int) -> Settings:
    """The settings of a preset other than custom."""
    chosen = PRESETS[preset]
    return Settings(
        dense_steps=None,
        dense_last_steps=chosen.dense_last_steps,
        dense_blocks=None,
        sink_frames=None,
        decay=None,
        block_size=block_size,
        lists=ADAPTIVE,
        budget=chosen.budget,
        preset=preset,
        dense=chosen.dense,
        long_dense_steps=chosen.long_dense_steps,
        early=chosen.early,
        until=chosen.until,
    )


def presets_in_words() -> str:
    """For a tooltip: a sentence on each, and what the figures are."""
    every = [
        f"{name}: {each.about} ({each.times_as_fast:g}x, {each.psnr} dB)."
        for name, each in PRESETS.items()
    ]
    paper = f"the paper's settings have {PAPER_TIMES_AS_FAST:g}x and {PAPER_PSNR} dB"
    return (
        f"{' '.join(every)} In brackets: the speed of a whole run over ComfyUI's default (Wan 2.1 "
        "14B, 69 frames, on an H200), and likeness to the dense video in this pack's quality lab, "
        f"a small model; {paper}."
    )
