"""Several cards compute together what one computes, for every class that can be split."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
import zoo
from comfy.ldm.wan.model import CameraWanModel, SCAILWanModel, VaceWanModel
from comfy.utils import get_attr
from conftest import pack_module, patch
from split_cards import compared
from zoo import hunyuan_video as hunyuan
from zoo import minimax_h3, mochi, wan21, wan22
from zoo.case import clip_vision, normal
from zoo.wan import text, wan

NotSplit = pack_module("nodes.cards.split_pass").NotSplit
HEADS = 5  # not divisible by 2 or 3
H3 = "comfy.ldm.minimax"
BOTH_ENDS = "first_frame", "last_frame"


def wan_of(*network, **sizes):
    return partial(wan, *network, dim=640, num_heads=HEADS, **sizes)


def mochi_of():
    return mochi.mochi(hidden_size_x=320, num_heads=HEADS, mlp_ratio_x=38.4)


def hunyuan_of(model=hunyuan.hunyuan_video, **sizes):
    return partial(model, hidden_size=640, num_heads=HEADS, **sizes)


def odd_video(channels: int = 16, batch: int = 1, sides=(7, 10, 14)) -> dict:
    """245 tokens: neither 2 nor 3 cards share them evenly."""
    return {"samples": torch.zeros(batch, channels, *sides)}


def scail2_of():
    from comfy.ldm.wan.model import SCAIL2WanModel

    return wan_of(SCAIL2WanModel)()


def h3(heads: int = HEADS):
    return minimax_h3.load(minimax_h3.network(**minimax_h3.SMALL | {"num_attention_heads": heads}))


def ti2v_5b(**values) -> zoo.Inputs:
    """The first frame is given. Its tokens have another timestep, in runs that go on from one
    card's share to the next. values: further entries of both prompts."""
    mask = torch.ones(1, 1, 7, 10, 14)
    mask[:, :, 0] = 0
    latent = odd_video(48) | {"noise_mask": mask}
    return zoo.Inputs(text(**values), text(seed=2, **values), latent, cfg=3.0)


@dataclass(frozen=True)
class Split:
    """latent: instead of the inputs' own. needs: a module that ComfyUI must have."""

    name: str
    model: Callable
    inputs: Callable[[], zoo.Inputs]
    latent: dict | None = None
    cards: tuple[int, ...] = (2, 3)
    needs: str = "comfy"
    oldest: bool = False


def uneven_5b() -> zoo.Inputs:
    """20 tokens of another latent come after the 7 frames, so the last run is shorter."""
    return ti2v_5b(context_latents=[normal(1, 48, 1, 7, 9)])


WAN_5B = wan_of(in_dim=48, out_dim=48)
VACE = wan_of(VaceWanModel, num_layers=4, vace_layers=2, vace_in_dim=96)
WAN_CASES = [
    Split("t2v, a pass a prompt", wan_of(), wan21.prompts_of_two_lengths, odd_video()),
    Split(
        "t2v, as much text as a card has tokens",
        wan_of(),
        lambda: zoo.Inputs(text(tokens=123), text(seed=2, tokens=82), odd_video(), cfg=3.0),
        oldest=True,
    ),
    Split("t2v, two videos", wan_of(), wan21.two_videos, odd_video(batch=2), oldest=True),
    Split("i2v", wan_of(model_type="i2v", in_dim=36), wan21.i2v),
    Split("vace with a reference", VACE, wan21.vace, oldest=True),
    Split("vace, two contexts", VACE, wan21.vace_twice, cards=(3,)),
    Split(
        "camera",
        wan_of(CameraWanModel, in_dim=32),
        partial(wan21.camera, clip_vision_output=clip_vision()),
    ),
    Split("scail", wan_of(SCAILWanModel), partial(wan21.scail, 1.0)),
    Split("scail 2", scail2_of, wan21.scail2, needs="comfy_extras.nodes_scail"),
    Split("2.2 ti2v 5b, shares of whole and half frames", WAN_5B, wan22.ti2v_5b),
    Split("2.2 ti2v 5b", WAN_5B, ti2v_5b, oldest=True),
    Split("2.2 ti2v 5b, uneven runs", WAN_5B, uneven_5b, needs="comfy_extras.nodes_bernini"),
    Split(
        "every kind of reference",
        wan_of(in_dim_ref_conv=16),
        wan22.every_reference,
        needs="comfy_extras.nodes_bernini",
    ),
]
HUNYUAN_15 = hunyuan_of(hunyuan.hunyuan_video_15)
OTHER_CASES = [
    Split(
        "hunyuan, two videos",
        hunyuan_of(),
        lambda: hunyuan.video(hunyuan.text()),
        odd_video(batch=2),
    ),
    Split(
        "hunyuan, padded prompts",
        hunyuan_of(),
        lambda: hunyuan.video(
            hunyuan.masked(31, [4, 5, 11, *range(24, 31)]),
            hunyuan.masked(23, [0, 1, 22], seed=2),
        ),
        odd_video(),
        oldest=True,
    ),
    Split("hunyuan i2v replace", hunyuan_of(), partial(hunyuan.image_to_video, "v2 (replace)")),
    Split("hunyuan reference latent", hunyuan_of(), partial(hunyuan.image_to_video, "custom")),
    Split("hunyuan 1.5 t2v", HUNYUAN_15, hunyuan.video_15, odd_video(32, sides=(7, 5, 7))),
    Split("hunyuan 1.5 i2v", HUNYUAN_15, hunyuan.image_to_video_15, oldest=True),
    Split(
        "hunyuan 1.5 super-resolution",
        hunyuan_of(hunyuan.hunyuan_video_15, in_channels=98, meanflow=True),
        hunyuan.super_resolution_15,
    ),
    Split(
        "hunyuan, fewer words than cards",
        hunyuan_of(),
        lambda: hunyuan.video(hunyuan.text(2)),
        odd_video(),
        cards=(3,),
        oldest=True,
    ),
    Split("mochi, fewer words than cards", mochi_of, partial(mochi.video, 2), oldest=True),
    Split("mochi, both prompts in one pass", mochi_of, partial(mochi.video, 17)),
    Split("h3, a pass a prompt", h3, minimax_h3.prompts_of_two_lengths, needs=H3),
    Split("h3 first and last frame", h3, partial(minimax_h3.keyframes, *BOTH_ENDS), needs=H3),
    Split(
        "h3 first frame, 8 cards",
        partial(h3, 9),
        partial(minimax_h3.keyframes, "first_frame"),
        cards=(8,),
        needs=H3,
    ),
    Split("h3 references", h3, minimax_h3.references, needs=H3),
]


def by_name(cases) -> list:
    marks = {True: [pytest.mark.oldest], False: []}
    return [pytest.param(case, id=case.name, marks=marks[case.oldest]) for case in cases]


def run(case, model=None):
    if importlib.util.find_spec(case.needs) is None:
        pytest.skip(f"not in this ComfyUI: {case.name}")
    return compared(model or case.model(), case.inputs(), case.cards, latent=case.latent)


@pytest.mark.parametrize("case", by_name(WAN_CASES + OTHER_CASES))
def test_cards_make_what_one_makes(case):
    assert max(run(case).differences) < 1e-5


RADIAL = ["vace with a reference", "hunyuan, padded prompts", "mochi, both", "h3, a pass"]


@pytest.mark.parametrize("name", RADIAL)
def test_sparse_calls_run_on_the_heads_of_each_card(name, any_density):
    case = next(each for each in WAN_CASES + OTHER_CASES if each.name.startswith(name))
    comparison = run(case, patch(case.model()))
    assert max(comparison.differences) < 1e-5
    blocks = {"vace": 4, "hunyuan": 4, "mochi": 3, "h3": 2}[name.split(" ")[0].rstrip(",")]
    assert all(each == set(range(blocks)) for each in comparison.sparse_blocks)


def without_attention(block: str):
    def forward(x, *_args, **_kwargs):
        return x

    def change(model):
        get_attr(model.get_model_object("diffusion_model"), block).forward = forward
        return model

    return change


@pytest.mark.parametrize(
    "name, change, why",
    [
        ("h3, a pass", without_attention("blocks.1.attn"), "DiTBlock asks no attention hook"),
        ("t2v, two", without_attention("blocks.1.self_attn"), r"attention over \[123, 20, 20\]"),
    ],
)
def test_what_cannot_be_split_says_so_on_all_cards(name, change, why):
    case = next(each for each in WAN_CASES + OTHER_CASES if each.name.startswith(name))
    with pytest.raises(NotSplit, match=why):
        run(case, change(case.model()))
