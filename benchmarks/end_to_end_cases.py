"""The videos of end_to_end.py, and the published figures for them."""

from dataclasses import dataclass, field

from end_to_end_networks import (
    HUNYUAN_VIDEO,
    HUNYUAN_VIDEO_15,
    LTX_2,
    MINIMAX_H3,
    MOCHI,
    WAN_1_3B,
    WAN_14B,
    VideoModel,
)

PAPER, LITE = "paper", "LiteAttention's table"


@dataclass(frozen=True)
class Case:
    """A video, and the paper's settings for it.

    latent: frames, height, width. forwards: passes a step. published: method -> published seconds
    of the same schedule on one H100. published_speedup: radial over dense, for long videos.
    measured: how many blocks of each list to run, from which the whole is computed; None for all.
    measured_dense: the same in a dense pass, whose blocks are all alike; None for as many.
    same_as: the case with the same passes.
    """

    model: VideoModel
    latent: tuple[int, int, int]
    forwards: int = 2
    steps: int = 50
    dense_steps: int = 12
    dense_blocks: int = 1
    decay: float = 0.2
    sink_frames: int = 1
    published: dict[str, float] = field(default_factory=dict)
    published_speedup: float | None = None
    measured: dict[str, int] | None = None
    measured_dense: dict[str, int] | None = None
    same_as: str | None = None


def _minimax_h3(frames: int) -> Case:
    """1344x768 with this pack's preset. The checkpoint runs without cfg; ComfyUI's graphs take 20
    steps. Not all of its 50 blocks are run: a dense pass over 15 s takes a minute."""
    return Case(
        *(MINIMAX_H3, (frames, 48, 84), 1, 20, 5),
        decay=1.0,
        measured={"blocks": 6},
        measured_dense={"blocks": 2},
    )


def _ltx_2(frames: int) -> Case:
    """1920x1088 with this pack's preset, 20 steps with cfg."""
    return Case(*(LTX_2, (frames, 34, 60), 2, 20, 5), decay=0.6, measured={"transformer_blocks": 8})


WAN_69 = "wan2.1-14b-69f-768p"
CASES = {
    WAN_69: Case(
        *(WAN_14B, (18, 96, 160)),
        published={
            f"dense, {PAPER}": 1630,
            f"Radial, {PAPER}": 917,
            f"STA, {PAPER}": 812,
            f"SVG, {PAPER}": 949,
            f"dense, {LITE}": 1707,
            f"Radial, {LITE}": 1192,
            f"LiteAttention, {LITE}": 902,
        },
    ),
    "wan2.1-14b-81f-720p": Case(WAN_14B, (21, 90, 160)),
    "hunyuan-117f-768p": Case(
        *(HUNYUAN_VIDEO, (30, 96, 160), 1),
        dense_blocks=0,
        decay=0.95,
        sink_frames=0,
        published={
            f"dense, {PAPER}": 1649,
            f"Radial, {PAPER}": 876,
            f"STA, {PAPER}": 719,
            f"SVG, {PAPER}": 867,
        },
    ),
    "hunyuan-509f-720p": Case(
        *(HUNYUAN_VIDEO, (128, 90, 160), 1),
        dense_steps=2,
        dense_blocks=2,
        decay=1.0,
        published_speedup=3.71,
        measured={"double_blocks": 3, "single_blocks": 2},
        measured_dense={"double_blocks": 1, "single_blocks": 1},  # a dense block takes 8 s
    ),
    "wan2.1-1.3b-81f-480p": Case(WAN_1_3B, (21, 60, 104)),
    "hunyuan1.5-121f-720p": Case(
        *(HUNYUAN_VIDEO_15, (31, 45, 80)), dense_blocks=0, decay=0.95, sink_frames=0
    ),
    "mochi-163f-480p": Case(MOCHI, (28, 60, 106), dense_blocks=0, decay=1.0),
    "mochi-667f-480p": Case(
        *(MOCHI, (112, 60, 106)),
        dense_steps=2,
        dense_blocks=2,
        decay=1.0,
        published_speedup=2.57,
        measured={"blocks": 5},
    ),
    "minimax-h3-5s-768p": _minimax_h3(37),
    "minimax-h3-10s-768p": _minimax_h3(72),
    "minimax-h3-15s-768p": _minimax_h3(107),
    "ltx2-257f-1088p": _ltx_2(33),
    "ltx2-505f-1088p": _ltx_2(64),
    "fusionx-69f-768p": Case(
        *(WAN_14B, (18, 96, 160), 1, 8, 2), published={"Radial, its authors": 90}, same_as=WAN_69
    ),
    "lightx2v-69f-768p": Case(
        *(WAN_14B, (18, 96, 160), 1, 4, 1), published={"Radial, its authors": 33}, same_as=WAN_69
    ),
}
