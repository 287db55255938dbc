"""Fixtures: models to sample in ComfyUI 0.38's attention, and who ran which of their calls."""

import comfy.model_base
import pytest
import zoo
from conftest import BLOCKS, pack_module, sample
from eight_bit import forget, register_backend

from .install import install

H3 = pytest.param(
    "MiniMax H3",
    marks=pytest.mark.skipif(not hasattr(comfy.model_base, "MiniMaxH3"), reason="older"),
)


class Runs:
    """Samples a model with the patch in 2 steps. video: tokens of the calls that we may take."""

    def __init__(self, model, run, video: tuple[int, ...], blocks: int, passes: int):
        self.model, self.sample, self.video = model, run, video
        self.radial = (blocks - 1) * passes
        self.dense = (blocks + 1) * passes

    def of_video(self, shapes) -> int:
        """How many calls are self-attention over the video. shapes: of q."""
        return sum(bool({*shape[1:3]} & {*self.video}) for shape in shapes)


@pytest.fixture(params=["Wan", H3])
def runs(request, any_density):
    if request.param == "Wan":
        return Runs(request.getfixturevalue("wan"), sample, (540,), BLOCKS, passes=1)
    case = next(each for each in zoo.CASES if each.kind == "MiniMaxH3" and each.typical)
    inputs, model = case.inputs(), case.model()
    tokens = [12 * 6 * 10 + before for before, _ in case.around]
    return Runs(model, lambda model: zoo.sample(model, inputs), tokens, 2, passes=2)


@pytest.fixture
def newest(monkeypatch):
    """newest(**options): ComfyUI 0.38's attention, as it was started."""
    known = pack_module("nodes.comfyui.attention_functions").FUNCTIONS

    def newest(**options):
        install(monkeypatch, known, **options)

    newest()
    return newest


@pytest.fixture
def rounded(monkeypatch):
    yield register_backend(monkeypatch)
    forget()
