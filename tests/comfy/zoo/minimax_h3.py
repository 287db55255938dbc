"""MiniMax H3: text, keyframes or references, sound and video are one sequence, the video last."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from .case import ON_PAPER, Case, Inputs, Named, load, normal, pictures, prompt

SIZE = {"width": 320, "height": 192, "length": 39}
GRID = (12, 6, 10)
SOUND = 2 * 65  # 39 frames at 24 a second are 65 latents at 40 a second, in stereo
TEXT = 20
FRAME = 6 * 10


def h3_nodes():
    return pytest.importorskip("comfy_extras.nodes_minimax_h3")


def network(**sizes):
    """ComfyUI's class, ON_PAPER."""
    module = pytest.importorskip("comfy.ldm.minimax.model")
    return module.MiniMaxH3Model(**sizes, **ON_PAPER)


class EmptyLatent:
    """ComfyUI's node, which makes one video at a time."""

    @staticmethod
    def execute(batch_size: int, **size):
        assert batch_size == 1
        return h3_nodes().EmptyMiniMaxH3LatentAV.execute(**size)


NAMED = {"MiniMax H3": Named(network, EmptyLatent)}
# Linear layers of the blocks that a token of the video passes.
VIDEO_LAYERS = r"blocks\.\d+\.(attn\.(qkv_proj|out_proj)|mlp\.fc[12])"


SMALL = {
    "hidden_size": 64,
    "num_layers": 2,
    "num_attention_heads": 2,
    "ffn_hidden_size": 96,
    "text_dim": 48,
    "timestep_input_dim": 32,
    "time_embed_hidden_size": 64,
    "time_embed_dim": 32,
}


def minimax_h3():
    """2 blocks, 2 for the text, 2 heads of 128."""
    return load(network(**SMALL))


def text(tokens: int = TEXT, seed: int = 1) -> list:
    """A prompt, some of whose tokens stand for pictures, as the text encoder marks them."""
    tags = torch.ones(1, tokens, dtype=torch.long)
    tags[:, 3:7] = 0
    return prompt(tokens, 48, seed, minimax_token_tags=tags)


class Encoder:
    """Stands for the text encoder, which has 32B: what ComfyUI's nodes ask of it."""

    def tokenize(self, prompt: str, **_pictures):
        return prompt

    def encode_from_tokens_scheduled(self, _tokens) -> list:
        return text()


class VideoVAE:
    """Stands for H3's, of which there is one size: 16 pixels a latent pixel, 5 latents of 17."""

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        number, height, width, _ = frames.shape
        latent_frames = 1 if number == 1 else (number - 5) // 17 * 5 + 2
        return normal(1, 24, latent_frames, height // 16, width // 16, seed=number)


class SoundVAE:
    """Stands for H3's: 40 latents a second, in stereo."""

    audio_sample_rate = 32000

    def encode(self, waveform: torch.Tensor) -> torch.Tensor:
        return normal(1, 32, 2, waveform.shape[1] // 800)


def prompts_of_two_lengths() -> Inputs:
    """Prompts of two lengths, so a pass each."""
    latent = EmptyLatent.execute(batch_size=1, **SIZE).args[0]
    return Inputs(text(), text(33, seed=2), latent, cfg=3.0)


def keyframes(*places: str) -> Inputs:
    """places: of the pictures that are given, first_frame and last_frame."""
    given = {place: pictures(1, 192, 320, seed) for seed, place in enumerate(places)}
    node = h3_nodes().MiniMaxH3ImageToVideo
    positive, latent = node.execute(Encoder(), VideoVAE(), "", **SIZE, **given).args
    return Inputs(positive, text(seed=2), latent)


def references() -> Inputs:
    """A picture, a video with its sound, and a sound alone."""
    sounds = [{"waveform": normal(1, 2, 800 * n), "sample_rate": 32000} for n in (9, 7)]
    positive, latent = (
        h3_nodes()
        .MiniMaxH3ReferenceToVideo.execute(
            *(Encoder(), VideoVAE(), SoundVAE(), ""),
            **SIZE,
            ref_images={"ref_image_0": pictures(1, 64, 96)},
            ref_videos={"ref_video_0": pictures(22, 64, 64)},
            ref_video_audios={"ref_video_audio_0": sounds[0]},
            ref_audios={"ref_audio_0": sounds[1]},
        )
        .args
    )
    return Inputs(positive, text(seed=2), latent)


REFERENCES = 2 * 3 + 7 * 2 * 2 + 2 * (9 + 7)  # picture, 22 frames, both sounds


def one(name: str, inputs, *before: int) -> Case:
    around = tuple((SOUND + tokens, 0) for tokens in before)
    return Case(name, "MiniMaxH3", minimax_h3, inputs, GRID, around, trains=False)


CASES = [
    replace(one("minimax h3 t2v, a pass a prompt", prompts_of_two_lengths, TEXT, 33), typical=True),
    one("minimax h3 first frame", partial(keyframes, "first_frame"), TEXT + FRAME),
    one(
        "minimax h3 first and last frame",
        partial(keyframes, "first_frame", "last_frame"),
        TEXT + 2 * FRAME,
    ),
    one("minimax h3 references", references, TEXT + REFERENCES),
]
