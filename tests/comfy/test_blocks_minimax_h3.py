"""When MiniMax H3's blocks run fused, and that they compute the same. See test_blocks_proof.py."""

import comfy.ops
import comfy.quant_ops
import comfy.sd
import pytest
import test_blocks_proof
import torch
import zoo
from conftest import newest_only, pack_module, patch
from test_blocks import ran  # noqa: F401
from test_blocks_proof import (  # noqa: F401
    RESULTS_DIFFER,
    edit_source,
    last_run,
    on_cpu,
    proofs,
)
from test_compat_weights import quantized
from torch import nn

pytestmark = newest_only("it has no MiniMax H3")
h3 = pytest.importorskip("comfy.ldm.minimax.model")

WIDTH, HEADS, HEAD_DIM, TIME, TOKENS, PAIRS = 96, 2, 64, 32, 9, 24
SEGMENTS = [(0, 2, 1), (2, 3, 0), (3, 3, 4), (3, 4, 1), (4, TOKENS, 3)]
CURVES = {"apply_silu": False, "adaln_dtype": torch.float32}
CASE = next(case for case in zoo.CASES if case.name == "minimax h3 references")


class Model(nn.Module):
    """What goes for a MiniMax H3, as far as the pack looks."""

    __module__, __qualname__ = "comfy.ldm.minimax.model", "MiniMaxH3Model"

    def __init__(self, block):
        super().__init__()
        self.blocks = nn.ModuleList([block])


def make_block(dtype=torch.float32, **options):
    """One of ComfyUI's blocks, with random weights."""
    torch.manual_seed(0)
    common = {"operations": comfy.ops.disable_weight_init, "device": "cpu", "dtype": dtype}
    block = h3.DiTBlock(WIDTH, HEADS, HEAD_DIM, 160, TIME, 1e-5, 1e-5, **options, **common)
    for weight in block.parameters():
        nn.init.normal_(weight, mean=weight.ndim == 1, std=0.1)
    return block.requires_grad_(False)


def call_of(block, **more) -> dict:
    dtype, generator = block.norm1.weight.dtype, torch.Generator().manual_seed(1)
    x = torch.randn(TOKENS, WIDTH, generator=generator).to(dtype)
    t_emb = torch.randn(2, TIME, generator=generator).to(block.adaln_proj.linear.weight.dtype)
    angles = torch.rand(TOKENS, 2 * PAIRS, generator=generator) * 6
    freqs = h3.rope_rotation_table(angles, dtype)
    call = {"x": x, "t_emb": t_emb, "mod_segments": SEGMENTS, "rope_freqs": freqs} | more
    return call | {"x": call["x"].clone()}


def why_not(block, within=1e-5, **more) -> str | None:
    """As `test_blocks_proof.why_not` has it."""
    call = lambda: call_of(block, **more)  # noqa: E731
    return test_blocks_proof.why_not_in(Model(block), block, call, within)


@pytest.mark.parametrize("options", [{}, CURVES], ids=["timesteps", "curves"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_block_is_fused_in_any_dtype(dtype, options, proofs):  # noqa: F811
    assert why_not(make_block(dtype, **options), within=4 * torch.finfo(dtype).eps) is None
    assert len(proofs) == 3  # the block, its attention and its feed-forward


def test_a_block_changes_its_tokens_in_place():
    block = make_block()
    call, plain = call_of(block), call_of(block)
    with torch.no_grad():
        block(**plain)
        with pack_module("nodes.fused_blocks").fused_blocks(Model(block)) as calls:
            assert block(**call) is call["x"]
    assert list(calls) == [None] and torch.allclose(call["x"], plain["x"], atol=1e-5)


OTHER_CALLS = {
    "tokens with their own timestep": (
        {"mod_segments": [(0, 4, 1), (4, TOKENS, torch.tensor([0, 3, 3, 0, 1]))]},
        "some of its tokens have their own timestep",
    ),
    "a gap": ({"mod_segments": [(0, 2, 1), (3, TOKENS, 0)]}, "a segment (3, 9, 0)"),
    "too few": ({"mod_segments": [(0, 2, 1)]}, "segments of 2 tokens, expected 9"),
    "a row from the end": ({"mod_segments": [(0, TOKENS, -1)]}, "a segment (0, 9, -1)"),
    "transposed tokens": ({"x": torch.randn(WIDTH, TOKENS).t()}, "tokens (9, 96)"),
    "no rotations": ({"rope_freqs": None}, "its tokens have no positions"),
}


@pytest.mark.parametrize(("more", "why"), OTHER_CALLS.values(), ids=OTHER_CALLS)
def test_a_call_that_is_not_fused(more, why):
    assert why in why_not(make_block(), **more)


def test_segments_as_lists():
    assert why_not(make_block(), mod_segments=list(map(list, SEGMENTS))) is None


def test_a_row_that_is_not_there_is_never_read():
    """A kernel would read what comes after it in memory. ComfyUI's forward raises IndexError."""
    block, declined = make_block(), pack_module("nodes.fused_blocks.fits").Declined
    plan = pack_module("nodes.fused_blocks.minimax_h3")._plan_block
    with torch.no_grad():
        plan(block, **call_of(block, mod_segments=[(0, TOKENS, 5)]))
        with pytest.raises(declined, match=r"a segment \(0, 9, 6\)"):
            plan(block, **call_of(block, mod_segments=[(0, TOKENS, 6)]))


EDITS = {
    h3.DiTBlock: ("gate_mlp, self.mlp(h)", "gate_msa, self.mlp(h)"),
    h3.Attention: ("qw, kw,", "kw, qw,"),
    h3.MLP: ("self.fc1(x)", "-self.fc1(x)"),
}


@pytest.mark.parametrize("cls", EDITS, ids=lambda cls: cls.__name__)
def test_a_forward_that_computes_something_else_is_not_fused(cls, monkeypatch):
    block = make_block()
    assert why_not(block) is None
    edit_source(monkeypatch, cls, EDITS[cls])
    assert why_not(block).startswith(RESULTS_DIFFER)


HELPERS = {
    "the gate": (h3, "_mod_gate", lambda plain: lambda x, g, y, s: plain(x, 2 * g, y, s)),
    "the SwiGLU": (
        *(comfy.ops, "linear_input_act"),
        lambda plain: lambda layer, x, name: plain(layer, 2 * x, name),
    ),
    "the rotation": (
        *(comfy.quant_ops.ck, "rms_rope_split_half_"),
        lambda plain: lambda q, k, freqs, *a, **named: plain(q, k, 2 * freqs, *a, **named),
    ),
}


@pytest.mark.parametrize(("place", "name", "change"), HELPERS.values(), ids=HELPERS)
def test_a_function_that_another_pack_replaced(place, name, change, monkeypatch):
    """Also one that a forward names by its module, as in comfy.ops.linear_input_act."""
    block = make_block()
    assert why_not(block) is None
    monkeypatch.setattr(place, name, change(getattr(place, name)))
    assert why_not(block).startswith(RESULTS_DIFFER)


@pytest.mark.parametrize("name", ["norm1", "norm2"])
def test_a_norm_with_a_hook_is_called(name):
    block, seen = make_block(), []
    assert why_not(block) is None
    block.get_submodule(name).register_forward_hook(lambda *a: seen.append(1))
    assert why_not(block) == f"a hook on {name}"
    assert len(seen) == 2  # with fusion and without


def test_a_feed_forward_in_chunks_leaves_the_rest_fused(proofs):  # noqa: F811
    """As packs replace it that save memory."""
    block, chunks = make_block(), []

    def chunked(x):
        chunks.append(1)
        return torch.cat([type(block.mlp).forward(block.mlp, part) for part in x.chunk(2)])

    block.mlp.forward = chunked
    assert why_not(block) == "another pack's forward"
    assert len(chunks) == 2 and len(proofs) == 2  # the block and its attention


def test_hooks_on_linear_layers_run():
    block, seen = make_block(), []
    for name in ("attn.qkv_proj", "attn.out_proj", "mlp.fc1", "mlp.fc2", "adaln_proj"):
        block.get_submodule(name).register_forward_hook(lambda *a: seen.append(1))
    assert why_not(block) is None
    assert len(seen) == 2 * 5


def test_an_attention_that_the_caller_brings(monkeypatch):
    """As ComfyUI 0.38 has it, for the patches of blocks."""
    edits = (
        ("transformer_options={}):", "transformer_options={}, attention=None):"),
        ("self.attn(h,", "(attention or self.attn)(h,"),
    )
    edit_source(monkeypatch, h3.DiTBlock, *edits)
    block = make_block()
    assert why_not(block) is None
    assert why_not(block, attention=lambda h, **options: 2 * h).endswith("attention")


def test_weights_whose_kernel_computes_the_swiglu(ran, monkeypatch):  # noqa: F811
    """It is left to it, and the proofs don't call it: they move no weights."""
    calls, int8_linear = [], comfy.quant_ops.ck.int8_linear

    def counted(*arguments, input_act=None, **named):
        calls.append(input_act)
        return int8_linear(*arguments, input_act=input_act, **named)

    monkeypatch.setattr(comfy.quant_ops.ck, "int8_linear", counted)
    weights = CASE.model().model.diffusion_model.state_dict()
    weights, metadata = quantized(weights, {}, "int8_tensorwise")
    model = comfy.sd.load_diffusion_model_state_dict(weights, metadata=metadata)
    zoo.sample(model, CASE.inputs(), steps=1)
    plain = calls.count("swiglu")
    assert plain == 2  # one for each block
    fused = patch(model, dense_steps=100, dense_attention="comfyui")
    zoo.sample(fused, CASE.inputs(), steps=1)
    assert calls.count("swiglu") == 2 * plain
    assert ran["MLP", True] == 2 and last_run(fused)["blocks_not_fused"] == 0
