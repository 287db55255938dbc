"""Wan 2.1 and the models based on it."""

from dataclasses import replace

import torch
from comfy.ldm.wan.model import CameraWanModel, HumoWanModel, SCAILWanModel, VaceWanModel
from comfy_extras import nodes_wan
from comfy_extras.nodes_camera_trajectory import WanCameraEmbedding

from .case import Inputs, clip_vision, normal, pictures
from .vae import tiny_vae
from .wan import SIZE, named, one, text, video, wan


def inputs_from(node, length: int, **inputs) -> Inputs:
    """Inputs from one of ComfyUI's conditioning nodes."""
    positive, negative, latent, *_ = node.execute(
        text(), text(seed=2), tiny_vae(), **SIZE, length=length, batch_size=1, **inputs
    ).args
    return Inputs(positive, negative, latent)


def image(seed: int = 0, number: int = 1) -> torch.Tensor:
    return pictures(number, 96, 160, seed)


def prompts_of_two_lengths() -> Inputs:
    """Prompts of two lengths, so one pass each, and a latent that must be padded to patches."""
    latent = {"samples": torch.zeros(1, 16, 9, 11, 19)}
    return Inputs(text(), text(seed=2, tokens=31), latent, cfg=3.0)


def two_videos() -> Inputs:
    latent = {"samples": torch.zeros(2, 16, 9, 12, 20)}
    return Inputs(text(), text(seed=2), latent, cfg=3.0)


def i2v() -> Inputs:
    return inputs_from(
        nodes_wan.WanImageToVideo, 33, start_image=image(), clip_vision_output=clip_vision()
    )


def flf2v() -> Inputs:
    return inputs_from(
        nodes_wan.WanFirstLastFrameToVideo,
        29,
        start_image=image(),
        end_image=image(1),
        clip_vision_start_image=clip_vision(),
        clip_vision_end_image=clip_vision(seed=1),
    )


def fun_control() -> Inputs:
    return inputs_from(
        nodes_wan.WanFunControlToVideo,
        33,
        control_video=image(number=33),
        clip_vision_output=clip_vision(),
    )


def fun_inpaint() -> Inputs:
    return inputs_from(
        nodes_wan.WanFunInpaintToVideo,
        29,
        start_image=image(),
        end_image=image(1),
        clip_vision_output=clip_vision(),
    )


def phantom() -> Inputs:
    positive, negative, _, latent = nodes_wan.WanPhantomSubjectToVideo.execute(
        text(), text(seed=2), tiny_vae(), **SIZE, length=29, batch_size=1, images=image(number=2)
    ).args
    return Inputs(positive, negative, latent, cfg=3.0)


def vace() -> Inputs:
    return inputs_from(
        nodes_wan.WanVaceToVideo,
        29,
        strength=0.8,
        control_video=image(number=29),
        reference_image=image(1),
    )


def vace_twice() -> Inputs:
    first = inputs_from(nodes_wan.WanVaceToVideo, 25, strength=0.8, control_video=image(number=25))
    positive, negative, *_ = nodes_wan.WanVaceToVideo.execute(
        first.positive,
        first.negative,
        tiny_vae(),
        **SIZE,
        length=25,
        batch_size=1,
        strength=0.5,
        control_video=image(1, number=25),
    ).args
    return Inputs(positive, negative, first.latent)


def camera(**inputs) -> Inputs:
    path = WanCameraEmbedding.execute("Pan Right", **SIZE, length=33).args[0]
    return inputs_from(
        nodes_wan.WanCameraImageToVideo, 33, start_image=image(), camera_conditions=path, **inputs
    )


def humo() -> Inputs:
    sound = {
        "encoded_audio_all_layers": [normal(1, 80, 1280, seed=n) for n in range(33)],
        "audio_samples": 40 * 640,
    }
    return inputs_from(
        nodes_wan.WanHuMoImageToVideo, 29, ref_image=image(), audio_encoder_output=sound
    )


def scail(pose_end: float) -> Inputs:
    """pose_end: the share of the schedule that has the pose."""
    try:
        from comfy_extras.nodes_scail import WanSCAILToVideo

        later = {"video_frame_offset": 0, "previous_frame_count": 5}
    except ImportError:
        WanSCAILToVideo, later = nodes_wan.WanSCAILToVideo, {}
    return inputs_from(
        WanSCAILToVideo,
        29,
        pose_strength=1.0,
        pose_start=0.0,
        pose_end=pose_end,
        reference_image=image(),
        pose_video=image(1, number=29),
        clip_vision_output=clip_vision(),
        **later,
    )


def scail2_model():
    from comfy.ldm.wan.model import SCAIL2WanModel

    return wan(SCAIL2WanModel)


def scail2() -> Inputs:
    """Two references, one of them the main one, each with a mask, as the pose has."""
    from comfy_extras.nodes_scail import WanSCAILToVideo

    return inputs_from(
        WanSCAILToVideo,
        33,
        pose_strength=1.0,
        pose_start=0.0,
        pose_end=1.0,
        video_frame_offset=0,
        previous_frame_count=5,
        reference_image=image(number=2),
        reference_image_mask=image(2, number=2).round(),
        pose_video=image(1, number=33),
        pose_video_mask=image(3, number=33).round(),
        clip_vision_output=clip_vision(),
    )


def causal_model():
    from comfy.ldm.wan.ar_model import CausalWanModel

    return wan(CausalWanModel, {"causal_ar": True})


def flow_rvs() -> Inputs:
    latent = {"samples": normal(1, 16, 9, 12, 20)}
    return Inputs(text(), text(seed=2), latent)


NAMED = {
    "Wan 2.1 14B": named(dim=5120, ffn_dim=13824, num_heads=40, num_layers=40),
    "Wan 2.1 1.3B": named(dim=1536, ffn_dim=8960, num_heads=12, num_layers=30),
}
IMAGE, AUDIO = ["image"], ["audio"]
VACE = {"num_layers": 4, "vace_layers": 2, "vace_in_dim": 96}

CASES = [
    one("wan t2v, odd sizes, a pass a prompt", "WAN21", wan, prompts_of_two_lengths),
    one("wan t2v, two videos", "WAN21", wan, two_videos),
    one(
        "wan t2v with a reference it has no place for",
        "WAN21",
        wan,
        lambda: video(reference_latents=[normal(1, 16, 1, 12, 20)]),
    ),
    replace(
        one("wan i2v", "WAN21", lambda: wan(model_type="i2v", in_dim=36), i2v, also=IMAGE),
        typical=True,
    ),
    one(
        "wan flf2v",
        "WAN21",
        lambda: wan(model_type="i2v", in_dim=36, flf_pos_embed_token_number=514),
        flf2v,
        8,
        also=IMAGE,
    ),
    one(
        "wan fun control",
        "WAN21",
        lambda: wan(model_type="i2v", in_dim=48),
        fun_control,
        also=IMAGE,
    ),
    one(
        "wan fun inpaint",
        "WAN21",
        lambda: wan(model_type="i2v", in_dim=36),
        fun_inpaint,
        8,
        also=IMAGE,
    ),
    one("wan phantom", "WAN21", wan, phantom, 8, [(0, 2 * 60)]),
    one(
        "wan vace with a reference",
        "WAN21_Vace",
        lambda: wan(VaceWanModel, **VACE),
        vace,
        calls=(2, 1, 2, 1),
    ),
    one(
        "wan vace, two contexts",
        "WAN21_Vace",
        lambda: wan(VaceWanModel, **VACE),
        vace_twice,
        7,
        calls=(3, 1, 3, 1),
    ),
    one(
        "wan camera",
        "WAN21_Camera",
        lambda: wan(CameraWanModel, in_dim=32),
        lambda: camera(clip_vision_output=clip_vision()),
        also=IMAGE,
    ),
    one(
        "wan 2.2 camera",
        "WAN21_Camera",
        lambda: wan(CameraWanModel, model_type="camera_2.2", in_dim=36),
        camera,
    ),
    one("humo 1.7b", "WAN21_HuMo", lambda: wan(HumoWanModel), humo, 8, [(0, 60)], also=AUDIO),
    one(
        "humo 17b",
        "WAN21_HuMo",
        lambda: wan(HumoWanModel, in_dim=36),
        humo,
        8,
        [(0, 60)],
        also=AUDIO,
    ),
    one(
        "scail",
        "WAN21_SCAIL",
        lambda: wan(SCAILWanModel),
        lambda: scail(1.0),
        8,
        [(60, 8 * 15)],
        also=IMAGE,
    ),
    one(
        "scail, the pose in the first step",
        "WAN21_SCAIL",
        lambda: wan(SCAILWanModel),
        lambda: scail(0.3),
        8,
        [(60, 8 * 15), (60, 0)],
        also=IMAGE,
    ),
    one("scail 2", "WAN21_SCAIL2", scail2_model, scail2, 9, [(2 * 60, 9 * 15)], also=IMAGE),
    one("wan causal, sampled as any other", "WAN21_CausalAR", causal_model, video),
    one("flowrvs", "WAN21_FlowRVS", lambda: wan(config={"model_type": "flow_rvs"}), flow_rvs),
]
