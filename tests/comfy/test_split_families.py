"""Several cards compute together what one computes, for every class that can be split."""

from functools import partial

import pytest
import torch
import zoo
from comfy.ldm.wan.model import CameraWanModel, SCAILWanModel, VaceWanModel
from split_cards import compared
from zoo import hunyuan_video as hunyuan
from zoo import minimax_h3, mochi, wan21, wan22
from zoo.case import clip_vision
from zoo.wan import text, video, wan

HEADS = 5  # not divisible by 2 or 3
WIDE_WAN = {"dim": 320, "num_heads": HEADS}


def wan_of(*network, **sizes):
    return partial(wan, *network, dim=640, num_heads=HEADS, **sizes)


def hunyuan_of(model=hunyuan.hunyuan_video, **sizes):
    return partial(model, hidden_size=640, num_heads=HEADS, **sizes)


def odd_video(channels: int = 16, batch: int = 1, sides=(7, 10, 14)) -> dict:
    """245 tokens: neither 2 nor 3 cards share them evenly."""
    return {"samples": torch.zeros(batch, channels, *sides)}


VACE = {"num_layers": 4, "vace_layers": 2, "vace_in_dim": 96}
CASES = {
    "wan t2v, odd sizes": (wan_of(), wan21.prompts_of_two_lengths),
    "wan t2v, two videos": (wan_of(), wan21.two_videos, odd_video(batch=2)),
}


@pytest.mark.parametrize("name", CASES)
def test_cards_make_what_one_makes(name):
    model, inputs, *latent = CASES[name]
    comparison = compared(model(), inputs(), latent=latent[0] if latent else None)
    print(name, comparison.differences)
    assert max(comparison.differences) < 1e-5
