"""What becomes of an attention call, for every reason: without ComfyUI."""

import copy
import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

ROOT, PACK = Path(__file__).parents[2], "radial_attention_without_comfyui"
LOAD = f"""
import importlib.util, sys
where = dict(submodule_search_locations=[{str(ROOT)!r}])
spec = importlib.util.spec_from_file_location({PACK!r}, {str(ROOT / "__init__.py")!r}, **where)
sys.modules[{PACK!r}] = importlib.util.module_from_spec(spec)
"""
spec = importlib.util.spec_from_file_location(
    PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
)
sys.modules[PACK] = importlib.util.module_from_spec(spec)
decision = importlib.import_module(f"{PACK}.nodes.hook.decision")
reasons = importlib.import_module(f"{PACK}.nodes.run.reasons")
core = importlib.import_module(f"{PACK}.radial_core")
Reason, Why = reasons.Reason, reasons.Why

GRID, BEFORE = (16, 8, 16), 6  # 6 tokens of text, then the video
VIDEO = core.VideoLayout(*GRID, prefix=BEFORE)
LONG_TEXT = VIDEO.tokens + 40
TOKENS = decision.TokenLayout(GRID, before=None, others=frozenset({40, LONG_TEXT}))
SHAPE = (1, VIDEO.tokens, 256)
PASS = decision.PassFacts(
    TOKENS, core.RadialPattern(0.2, 1, 64), core.Schedule(1, 1, 2), is_dense_step=False
)
CALL = decision.CallFacts(VIDEO, block=2, shapes=(SHAPE, SHAPE, SHAPE))
KNOWN_PASS = dict(
    model_class="a.Wan",
    is_known=True,
    latent_dims=5,
    has_cached_frames=False,
    reordered_by=None,
)


def test_it_needs_no_comfyui():
    modules = ("hook.decision", "hook.arguments", "run.reasons", "inputs.settings")
    script = LOAD + "".join(f"\nimport {PACK}.nodes.{module}" for module in modules)
    script += "\nprint([m for m in sys.modules if m.split('.')[0].startswith('comfy')])"
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr[-2000:]


def test_a_sparse_call():
    found = decision.decide(PASS, CALL)
    assert isinstance(found, decision.Sparse) and found.padding is None
    assert (found.plan.layout, found.plan.block_size) == (VIDEO, 64)
    assert 0 < found.plan.density < decision.MOST_DENSITY


def test_padding_is_no_part_of_the_plan():
    found = decision.decide(PASS, CALL._replace(absent=(4, 5)))
    assert found.plan.layout == replace(VIDEO, prefix=BEFORE - 2)
    assert found.padding == decision.Padding(BEFORE, (4, 5))


def of_one_frame():
    video = replace(VIDEO, frames=1)
    return CALL._replace(video=video, shapes=((1, video.tokens, 256),) * 3)


everything = replace(PASS, pattern=core.RadialPattern(4.0, 1000, 64))
OTHER_HEADS = (SHAPE, (1, VIDEO.tokens, 128), (1, VIDEO.tokens, 128))
DENSE = [
    (PASS, CALL._replace(video=Why(Reason.SAME_LENGTHS, 40)), Reason.SAME_LENGTHS),
    (PASS, CALL._replace(video=Why(Reason.OTHER_LENGTH, 9, "2x2x2")), Reason.OTHER_LENGTH),
    (PASS, CALL._replace(video=Why(Reason.IN_PARTS)), Reason.IN_PARTS),
    (PASS, CALL._replace(unknown_arguments=("softcap",)), Reason.ARGUMENTS),
    (PASS, CALL._replace(absent=None), Reason.MASK),
    (PASS, CALL._replace(absent=(BEFORE,)), Reason.MASK),  # a token of the video
    (PASS, CALL._replace(shapes=OTHER_HEADS), Reason.OTHER_HEADS),
    (PASS, CALL._replace(failure="OutOfMemoryError"), Reason.FAILED),
    (PASS, of_one_frame(), Reason.SINGLE_FRAME),
    (replace(PASS, is_dense_step=True), CALL, Reason.DENSE_STEP),
    (PASS, CALL._replace(block=1), Reason.DENSE_BLOCK),
    (everything, CALL, Reason.TOO_DENSE),
]
PLAIN = {Reason.SINGLE_FRAME, Reason.DENSE_STEP, Reason.DENSE_BLOCK, Reason.TOO_DENSE}


@pytest.mark.parametrize("facts, call, reason", DENSE, ids=[reason.name for *_, reason in DENSE])
def test_a_dense_call(facts, call, reason):
    found = decision.decide(facts, call)
    assert isinstance(found, decision.Dense) and found.why.reason is reason
    assert found.is_plain == (reason in PLAIN)
    if found.is_plain:  # another kernel computes it without the padding, too
        padded = decision.decide(facts, call._replace(absent=(0,)))
        assert padded.padding == decision.Padding(BEFORE, (0,))


def test_what_adaptive_lists_keep_in_any_case_may_be_too_much():
    short = CALL._replace(video=core.VideoLayout(3, 8, 8, prefix=BEFORE))
    for video, kind in ((CALL, decision.Sparse), (short, decision.Dense)):
        assert isinstance(decision.decide(replace(PASS, budget=0.1), video), kind)


@pytest.mark.parametrize("reason", reasons.NOT_OURS)
def test_a_call_that_is_not_ours(reason):
    assert decision.decide(PASS, decision.CallFacts(Why(reason))) == decision.NotOurs(Why(reason))


def test_what_cannot_be_told_comes_before_what_is_set():
    facts, call = replace(PASS, is_dense_step=True), CALL._replace(block=0, absent=None)
    assert decision.decide(facts, call).why.reason is Reason.MASK
    assert decision.decide(facts, CALL._replace(block=0)).why.reason is Reason.DENSE_STEP
    assert decision.decide(facts, CALL._replace(failure="Error")).why == "Error"


@pytest.mark.parametrize(
    "in_block, query, key, expected",
    [
        (True, VIDEO.tokens, VIDEO.tokens, VIDEO),
        (False, VIDEO.tokens, VIDEO.tokens, Reason.OUTSIDE_BLOCKS),
        (True, VIDEO.tokens, 20, Reason.CROSS_ATTENTION),
        (True, 20, VIDEO.tokens, Reason.CROSS_ATTENTION),
        (True, VIDEO.video_tokens, VIDEO.tokens, Reason.IN_PARTS),
        (True, 40, 40, Reason.OTHER_SEQUENCE),
        (True, LONG_TEXT, LONG_TEXT, Reason.SAME_LENGTHS),
        (True, 100, 100, Reason.OTHER_LENGTH),
    ],
)
def test_where_the_video_is(in_block, query, key, expected):
    found = decision.find_video(TOKENS, in_block, query, key)
    assert getattr(found, "reason", found) == expected


def test_a_model_that_announces_no_blocks():
    tokens = replace(TOKENS, announced=False)
    assert decision.find_video(tokens, False, VIDEO.tokens, VIDEO.tokens) == VIDEO


@pytest.mark.parametrize(
    "tokens, otherwise",
    [
        (40, Reason.OTHER_SEQUENCE),
        (LONG_TEXT, Reason.SAME_LENGTHS),
        (100, Reason.OTHER_LENGTH),
    ],
)
def test_a_call_outside_of_hooked_blocks(tokens, otherwise):
    """A model that announces no blocks: where all have hooks, a text refiner's calls have none."""
    layout = replace(TOKENS, announced=False)
    assert decision.find_video(layout, False, tokens, tokens).reason is otherwise
    found = decision.find_video(layout, False, tokens, tokens, all_hooked=True)
    assert found.reason is Reason.OUTSIDE_BLOCKS
    in_block = decision.find_video(layout, True, tokens, tokens, all_hooked=True)
    assert in_block.reason is otherwise
    # A replacement of a block may compute the attention itself.
    video = decision.find_video(layout, False, VIDEO.tokens, VIDEO.tokens, all_hooked=True)
    assert video == VIDEO


@pytest.mark.parametrize(
    "facts, reason",
    [
        ({}, None),
        ({"is_known": False}, Reason.UNKNOWN_MODEL),
        ({"latent_dims": 4}, Reason.NOT_A_VIDEO),
        ({"has_cached_frames": True}, Reason.CACHED_FRAMES),
        ({"reordered_by": "a pack"}, Reason.REORDERED),
    ],
)
def test_a_pass(facts, reason):
    why = decision.why_pass_is_dense(**KNOWN_PASS | facts)
    assert (why and why.reason) is reason
    assert reason is not Reason.UNKNOWN_MODEL or "a.Wan" in why


def test_a_reason_is_its_text():
    why = Why(Reason.TOO_DENSE, "97%")
    assert "97%" in why and json.loads(json.dumps({why: 1})) == {str(why): 1}
    assert copy.deepcopy(why).reason is Reason.TOO_DENSE
    assert len({reason.value for reason in Reason}) == len(Reason)
