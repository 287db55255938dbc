"""Wan 2.2 and the models based on it."""

from dataclasses import replace

import torch
from comfy.ldm.wan.model import WanModel_S2V
from comfy.ldm.wan.model_animate import AnimateWanModel
from comfy_extras import nodes_wan
from node_helpers import conditioning_set_values_with_timestep_range

from .case import Case, Inputs, clip_vision, normal, pictures
from .vae import tiny_vae
from .wan import named, one, text, video, wan
from .wan21 import image, inputs_from


def i2v_a14b_model(seed: int = 0):
    return wan(in_dim=36, seed=seed)


def i2v_a14b() -> Inputs:
    return inputs_from(nodes_wan.WanImageToVideo, 33, start_image=image())


def fun_control() -> Inputs:
    return inputs_from(
        nodes_wan.Wan22FunControlToVideo, 33, ref_image=image(), control_video=image(1, number=33)
    )


def ti2v_5b() -> Inputs:
    """The first frame is given, so its tokens have their own timestep."""
    mask = torch.ones(1, 1, 9, 12, 20)
    mask[:, :, 0] = 0
    latent = {"samples": normal(1, 48, 9, 12, 20), "noise_mask": mask}
    return Inputs(text(), text(seed=2), latent, cfg=3.0)


def s2v() -> Inputs:
    """A video that continues another: after it come a reference and the previous motion."""
    sound = {"encoded_audio_all_layers": [normal(1, 400, 1024, seed=n) for n in range(25)]}
    positive, negative, latent = nodes_wan.WanSoundImageToVideoExtend.execute(
        text(),
        text(seed=2),
        tiny_vae(),
        length=29,
        video_latent={"samples": normal(1, 16, 19, 12, 20)},
        audio_encoder_output=sound,
        ref_image=image(),
        control_video=image(1, number=29),
    ).args
    return Inputs(positive, negative, latent)


def animate() -> Inputs:
    """With a face only in the first step: its encoder is as large as in the real model."""
    inputs = inputs_from(
        nodes_wan.WanAnimateToVideo,
        29,
        continue_motion_max_frames=5,
        video_frame_offset=0,
        reference_image=image(),
        pose_video=image(1, number=29),
        clip_vision_output=clip_vision(),
    )
    face = {"face_video_pixels": normal(1, 3, 1, 512, 512)}
    positive = conditioning_set_values_with_timestep_range(inputs.positive, face, 0.0, 0.3)
    return replace(inputs, positive=positive)


def bernini() -> Inputs:
    """A video to edit and a picture of another size."""
    from comfy_extras.nodes_bernini import BerniniConditioning

    return inputs_from(
        BerniniConditioning,
        25,
        source_video=image(number=25),
        reference_images={"reference_image_0": pictures(1, 64, 112)},
    )


def every_reference() -> Inputs:
    """A latent before the video, frames after it, and a latent of an odd size."""
    return video(
        reference_latents=[normal(1, 16, 1, 12, 20)],
        time_dim_concat=normal(1, 16, 2, 12, 20),
        context_latents=[normal(1, 16, 1, 7, 9)],
    )


def dancer_model():
    from comfy.ldm.wan.model_wandancer import WanDancerModel

    return wan(WanDancerModel, in_dim=36)


def dancer() -> Inputs:
    """There are 8 music tokens a latent frame, so a frame needs a multiple of 8 patches."""
    from comfy_extras.nodes_wandancer import WanDancerVideo

    positive, negative, latent = WanDancerVideo.execute(
        text(),
        text(seed=2),
        tiny_vae(),
        width=192,
        height=96,
        length=29,
        start_image=image(),
        clip_vision_output=clip_vision(),
        clip_vision_output_ref=clip_vision(seed=1),
        audio_encoder_output={"audio_feature": normal(1, 29, 35), "fps": 30.0},
    ).args
    return Inputs(positive, negative, latent)


NAMED = {
    "Wan 2.2 A14B": named(dim=5120, ffn_dim=13824, num_heads=40, num_layers=40, in_dim=36),
    "Wan 2.2 5B": named(
        nodes_wan.Wan22ImageToVideoLatent,
        {"vae": None},
        **dict(dim=3072, ffn_dim=14336, num_heads=24, num_layers=30, in_dim=48, out_dim=48),
    ),
}
MOTION = 6 * 10 + 3 * 5 + 4 * 1 * 2  # the last frame, the 2 before it, and the 16 before those

CASES = [
    one("wan 2.2 i2v a14b", "WAN21", i2v_a14b_model, i2v_a14b),
    one(
        "wan 2.2 fun control with a reference",
        "WAN21",
        lambda: wan(in_dim=52, in_dim_ref_conv=16),
        fun_control,
        9,
        [(60, 0)],
    ),
    one("wan 2.2 ti2v 5b", "WAN22", lambda: wan(in_dim=48, out_dim=48), ti2v_5b),
    one("wan s2v", "WAN22_S2V", lambda: wan(WanModel_S2V), s2v, 8, [(0, 60 + MOTION)]),
    one(
        "wan animate",
        "WAN22_Animate",
        lambda: wan(AnimateWanModel, in_dim=36, num_layers=5),
        animate,
        also=["image"],
        calls=(1, 1, 1, 1, 1),
    ),
    one(
        "bernini",
        "WAN21",
        wan,
        bernini,
        7,
        [(0, 7 * 60 + 4 * 7)],
        needs="comfy_extras.nodes_bernini",
    ),
    one(
        "wan with every kind of reference",
        "WAN21",
        lambda: wan(in_dim_ref_conv=16),
        every_reference,
        9,
        [(60, 2 * 60 + 4 * 5)],
        needs="comfy_extras.nodes_bernini",
    ),
    Case(
        "wandancer",
        "WAN22_WanDancer",
        dancer_model,
        dancer,
        (8, 6, 12),
        others={"text": 2, "image": 2},
    ),
]
