"""The training steps that training.py measures: real models at 1x, 2x and 4x their length."""

from dataclasses import dataclass

from end_to_end_networks import HUNYUAN_VIDEO, WAN_1_3B, WAN_14B, VideoModel, hunyuan_settings

# The paper's recipe for longer videos, used here at every length.
RANK = 128
DENSE_BLOCKS, DECAY, SINK_FRAMES, BLOCK_SIZE = 2, 1.0, 1, 128


@dataclass(frozen=True)
class Case:
    """A video to train on.

    latent: frames, height, width. measured: how many blocks of each list to run, from which the
    whole is computed; None for all. shorter: the case at half the length, from which the step is
    estimated if this one does not fit the GPU. heads: how many heads to run when attention is timed
    by itself, with the time scaled; None for all. default_attention: also measure ComfyUI's default
    attention. published_speedup: the paper's, of radial over dense.
    """

    model: VideoModel
    latent: tuple[int, int, int]
    measured: dict[str, int] | None = None
    shorter: str | None = None
    heads: int | None = None
    default_attention: bool = False
    published_speedup: float | None = None

    @property
    def prefix(self) -> int:
        """Text tokens before the video's, in the same attention."""
        return self.model.text[0] if "double_blocks" in self.model.blocks else 0

    @property
    def width(self) -> int:
        settings = self.model.settings
        return settings.get("dim") or settings["hidden_size"]

    @property
    def tokens(self) -> int:
        return self.prefix + self.model.tokens(self.latent)

    @property
    def blocks(self) -> dict[str, int]:
        return self.measured or self.model.blocks


ONE_OF_EACH = {"double_blocks": 1, "single_blocks": 1}
CASES = {
    "wan2.1-1.3b-81f-480p": Case(WAN_1_3B, (21, 60, 104), default_attention=True),
    "wan2.1-1.3b-161f-480p": Case(WAN_1_3B, (41, 60, 104), shorter="wan2.1-1.3b-81f-480p"),
    "wan2.1-1.3b-321f-480p": Case(
        *(WAN_1_3B, (81, 60, 104), {"blocks": 4}), shorter="wan2.1-1.3b-161f-480p"
    ),
    "wan2.1-14b-81f-768p": Case(WAN_14B, (21, 96, 160), {"blocks": 2}, default_attention=True),
    "wan2.1-14b-161f-768p": Case(
        *(WAN_14B, (41, 96, 160), {"blocks": 1}),
        shorter="wan2.1-14b-81f-768p",
        published_speedup=1.93,
    ),
    "hunyuan-117f-768p": Case(HUNYUAN_VIDEO, (30, 96, 160), ONE_OF_EACH, default_attention=True),
    "hunyuan-253f-768p": Case(
        *(HUNYUAN_VIDEO, (64, 96, 160), ONE_OF_EACH), shorter="hunyuan-117f-768p"
    ),
    "hunyuan-509f-768p": Case(
        *(HUNYUAN_VIDEO, (128, 96, 160), ONE_OF_EACH),
        shorter="hunyuan-253f-768p",
        published_speedup=4.37,
    ),
    "wan2.1-14b-321f-768p": Case(
        *(WAN_14B, (81, 96, 160), {"blocks": 1}), shorter="wan2.1-14b-161f-768p", heads=8
    ),
}

_TINY_WAN = VideoModel(
    WAN_1_3B.network,
    dict(dim=256, ffn_dim=256, num_heads=2, num_layers=3, text_dim=4096),
    *(16, 2, {"blocks": 3}, (20, 4096)),
)
_TINY_HUNYUAN = VideoModel(
    HUNYUAN_VIDEO.network,
    {**HUNYUAN_VIDEO.settings, **hunyuan_settings(16, 16, 256, 3, 3), "context_in_dim": 4096},
    *(16, 2, {"double_blocks": 3, "single_blocks": 3}, (20, 4096)),
    {"pooled_output": (1, 768)},
)
TINY = {
    "wan": Case(_TINY_WAN, (24, 12, 20), default_attention=True),
    "wan-2x": Case(_TINY_WAN, (48, 12, 20), {"blocks": 2}, shorter="wan", heads=1),
    "hunyuan": Case(_TINY_HUNYUAN, (24, 12, 20), ONE_OF_EACH),
}
