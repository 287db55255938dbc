"""Video models at their real sizes, as ComfyUI's classes take them."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Sound:
    """Sound that is denoised with a video, as a second latent.

    shape: latent frames of the video -> shape of the sound's latent, without the batch. in_front:
    latent frames -> its tokens in front of the video's in the same attention; 0 where sound has an
    attention of its own.
    """

    shape: Callable[[int], tuple[int, ...]]
    in_front: Callable[[int], int]


@dataclass(frozen=True)
class VideoModel:
    """A model and its prompt.

    network: its class in ComfyUI. settings: the arguments of the class; None for a model whose size
    ComfyUI has built in. channels: of the latent. patch: height and width of a token, in the
    latent. blocks: number of transformer blocks, by the name of their list. text: tokens and width
    of the prompt. conditions: the shapes of further inputs; None for an input that is None.
    """

    network: str
    settings: dict | None
    channels: int
    patch: int
    blocks: dict[str, int]
    text: tuple[int, int]
    conditions: dict = field(default_factory=dict)
    sound: Sound | None = None

    def tokens(self, latent: tuple[int, int, int]) -> int:
        frames, height, width = latent
        return frames * math.ceil(height / self.patch) * math.ceil(width / self.patch)

    def sound_tokens(self, latent: tuple[int, int, int]) -> int:
        """In the same attention as the video's tokens, in front of them."""
        return 0 if self.sound is None else self.sound.in_front(latent[0])


def _wan(dim: int, ffn_dim: int, layers: int) -> VideoModel:
    heads = dim // 128
    settings = dict(dim=dim, ffn_dim=ffn_dim, num_heads=heads, num_layers=layers, text_dim=4096)
    network = "comfy.ldm.wan.model.WanModel"
    return VideoModel(network, settings, 16, 2, {"blocks": layers}, (512, 4096))


def hunyuan_settings(
    channels_in: int, channels: int, hidden: int, double: int, single: int, **more
) -> dict:
    return dict(
        in_channels=channels_in,
        out_channels=channels,
        hidden_size=hidden,
        num_heads=hidden // 128,
        depth=double,
        depth_single_blocks=single,
        mlp_ratio=4.0,
        axes_dim=[16, 56, 56],
        theta=256,
        qkv_bias=True,
        meanflow=False,
        **more,
    )


_HUNYUAN = "comfy.ldm.hunyuan_video.model.HunyuanVideo"
WAN_14B = _wan(5120, 13824, 40)
WAN_1_3B = _wan(1536, 8960, 30)
HUNYUAN_VIDEO = VideoModel(
    _HUNYUAN,
    hunyuan_settings(
        *(16, 16, 3072, 20, 40),
        patch_size=[1, 2, 2],
        context_in_dim=4096,
        vec_in_dim=768,
        guidance_embed=True,
        byt5=False,
        use_cond_type_embedding=False,
        vision_in_dim=None,
        meanflow_sum=False,
    ),
    *(16, 2, {"double_blocks": 20, "single_blocks": 40}, (256, 4096)),
    {"pooled_output": (1, 768)},
)
# As in the config.json of its 720p checkpoints. Besides the noise its input has an image's latent
# and a mask: 65 channels. The byT5 tokens are for text that the prompt puts in quotes.
HUNYUAN_VIDEO_15 = VideoModel(
    _HUNYUAN,
    hunyuan_settings(
        *(65, 32, 2048, 54, 0),
        patch_size=[1, 1, 1],
        context_in_dim=3584,
        vec_in_dim=None,
        guidance_embed=False,
        byt5=True,
        use_cond_type_embedding=True,
        vision_in_dim=1152,
        meanflow_sum=True,
    ),
    *(32, 1, {"double_blocks": 54}, (256, 3584)),
    {"pooled_output": None, "conditioning_byt5small": (1, 64, 1472)},
)
MOCHI = VideoModel(
    "comfy.ldm.genmo.joint_model.asymm_models_joint.AsymmDiTJoint",
    *(None, 12, 2, {"blocks": 48}, (256, 4096)),
    {"attention_mask": (1, 256)},
)


def _minimax_h3_sound(latent_frames: int) -> int:
    """40 latents a second, 24 frames a second. 5 latent frames stand for 17, the last 2 for 5."""
    frames = (latent_frames - 2) // 5 * 17 + 5
    return round(frames / 24 * 40)


MINIMAX_H3 = VideoModel(  # the sizes of the class are the checkpoint's
    "comfy.ldm.minimax.model.MiniMaxH3Model",
    *({}, 24, 2, {"blocks": 50}, (256, 5120)),
    sound=Sound(lambda n: (32, 2, _minimax_h3_sound(n)), lambda n: 2 * _minimax_h3_sound(n)),
)
# 25 frames and 25 latents of sound a second. The prompt is as its text encoder has it.
LTX_2 = VideoModel(
    "comfy.ldm.lightricks.av_model.LTXAVModel",
    *({}, 128, 1, {"transformer_blocks": 48}, (1024, 7680)),
    sound=Sound(lambda n: (8, 8 * (n - 1) + 1, 16), lambda n: 0),
)
