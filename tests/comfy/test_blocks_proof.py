"""Which blocks run fused, and the reason for the others: blocks changed as other packs do.

Each block is proven first and changed afterwards. Fused or not, the result must be that of
ComfyUI's forward.
"""

import importlib
import inspect
import sys
import textwrap
from collections import Counter

import comfy.ldm.flux.layers as flux
import comfy.ldm.wan.model as wan_model
import comfy.model_management
import comfy.ops
import pytest
import torch
import zoo
from comfy.ldm.flux.math import rope
from conftest import difference, pack_module, patch, sample
from test_blocks import fuse_on_cpu
from torch import nn

WIDTH, TOKENS, TEXT = 128, 10, 6
RESULTS_DIFFER = "it computes something else"


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch):
    """Fusion on the CPU, with no proofs and log messages from before."""
    blocks = fuse_on_cpu(monkeypatch)
    blocks._log_once.cache_clear()
    monkeypatch.setattr(pack_module("nodes.fused_blocks.proof"), "_verdicts", {})
    monkeypatch.setattr(pack_module("nodes.fused_blocks.proof"), "_tries", Counter())


@pytest.fixture
def proofs(monkeypatch):
    """The proofs that ran."""
    proof, ran = pack_module("nodes.fused_blocks.proof"), []
    compare = proof.compare

    def counted(*arguments):
        ran.append(arguments)
        return compare(*arguments)

    monkeypatch.setattr(proof, "compare", counted)
    return ran


def make_block(cls, dtype=torch.float32, **options):
    """One of ComfyUI's blocks, with random weights."""
    torch.manual_seed(0)
    common = {"operations": comfy.ops.disable_weight_init, "device": "cpu", "dtype": dtype}
    if cls is wan_model.WanAttentionBlock:
        block = cls("t2v_cross_attn", WIDTH, 2 * WIDTH, 1, operation_settings=common, **options)
    else:
        block = cls(WIDTH, 1, mlp_ratio=2.0, **common, **options)
    for weight in block.parameters():
        nn.init.normal_(weight, mean=weight.ndim == 1, std=0.1)
    return block


def net_with(blocks, is_wan: bool = True):
    """What goes for a Wan or a HunyuanVideo, as far as the pack looks."""
    net, name = (Wan(), "blocks") if is_wan else (Hunyuan(), "single_blocks")
    setattr(net, name, blocks)
    return net


class Wan(nn.Module):
    __module__, __qualname__ = "comfy.ldm.wan.model", "WanModel"


class Hunyuan(nn.Module):
    __module__, __qualname__ = "comfy.ldm.hunyuan_video.model", "HunyuanVideo"


def call_of(block, dtype=torch.float32, **more) -> dict:
    tokens = torch.arange(TOKENS + TEXT)[None].float()
    angles = rope(tokens, WIDTH, 10000)
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(shape, generator=generator).to(dtype)

    if isinstance(block, wan_model.WanAttentionBlock):
        call = {"x": draw(1, TOKENS, WIDTH), "e": draw(1, 6, WIDTH)}
        call |= {"freqs": angles[:, :TOKENS, None], "context": draw(1, TEXT, WIDTH)}
    elif isinstance(block, flux.DoubleStreamBlock):
        call = {"img": draw(1, TOKENS, WIDTH), "txt": draw(1, TEXT, WIDTH)}
        call |= {"vec": draw(1, WIDTH), "pe": angles[:, None]}
    else:
        call = {"x": draw(1, TOKENS + TEXT, WIDTH), "vec": draw(1, WIDTH), "pe": angles[:, None]}
    return call | more


def why_not(block, within=1e-5, **more) -> str | None:
    """Why a block does not run fused, None if it does. Its result must be right either way."""
    dtype = next(block.parameters()).dtype
    net = net_with(nn.ModuleList([block]), isinstance(block, wan_model.WanAttentionBlock))
    return why_not_in(net, block, lambda: call_of(block, dtype, **more), within)


def why_not_in(net, block, make_call, within: float) -> str | None:
    """The same of a block in a model. make_call: its arguments, which it may change."""

    def run():
        out = block(**make_call())
        return torch.cat([x.flatten() for x in (out if isinstance(out, tuple) else (out,))])

    with torch.no_grad():
        want = run()
        with pack_module("nodes.fused_blocks").fused_blocks(net) as calls:
            got = run()
    assert difference(got.double(), want.double()) < within
    assert sum(calls.values()) == 1
    return next(iter(calls))


CLASSES = wan_model.WanAttentionBlock, flux.DoubleStreamBlock, flux.SingleStreamBlock
by_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)


def edit_source(monkeypatch, cls, *edits: tuple[str, str]):
    """Replace a forward by one with edited source. edits: (old, new) text."""
    code = textwrap.dedent(inspect.getsource(cls.forward))
    for old, new in edits:
        assert old in code
        code = code.replace(old, new)
    namespace = {}
    exec(f"# another version\n{code}", vars(sys.modules[cls.__module__]), namespace)
    monkeypatch.setattr(cls, "forward", namespace["forward"])


@by_class
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_block_is_fused_in_any_dtype(cls, dtype):
    assert why_not(make_block(cls, dtype), within=4 * torch.finfo(dtype).eps) is None


@pytest.mark.parametrize("cls", [*CLASSES, wan_model.WanSelfAttention])
def test_an_added_comment_changes_nothing(cls, monkeypatch):
    edit_source(monkeypatch, cls)
    assert why_not(make_block(CLASSES[0] if cls is wan_model.WanSelfAttention else cls)) is None


EDITS = {
    wan_model.WanAttentionBlock: ("1 + repeat_e(e[4], x)", "1.5 + repeat_e(e[4], x)"),
    wan_model.WanSelfAttention: ("self.norm_k(self.k(x))", "self.norm_k(self.k(x)).neg()"),
    flux.DoubleStreamBlock: ("txt += apply_mod(self.txt_mlp", "txt -= apply_mod(self.txt_mlp"),
    flux.SingleStreamBlock: ("mlp = self.mlp_act(mlp)\n", "mlp = self.mlp_act(mlp).abs()\n"),
}


@pytest.mark.parametrize("cls", EDITS, ids=lambda cls: cls.__name__)
def test_a_forward_that_computes_something_else_is_not_fused(cls, monkeypatch):
    block = make_block(CLASSES[0] if cls is wan_model.WanSelfAttention else cls)
    assert why_not(block) is None
    edit_source(monkeypatch, cls, EDITS[cls])
    assert why_not(block).startswith(RESULTS_DIFFER)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_different_activation_is_not_fused(dtype):
    block = make_block(flux.SingleStreamBlock, dtype)
    assert why_not(block, 4 * torch.finfo(dtype).eps) is None
    block.mlp_act = nn.SiLU()
    assert why_not(block).startswith(RESULTS_DIFFER)


@pytest.mark.parametrize("options", [{"yak_mlp": True}, {"mlp_silu_act": True}], ids=str)
def test_comfyuis_other_mlps(options):
    assert why_not(make_block(flux.SingleStreamBlock)) is None
    assert "the proof failed" in why_not(make_block(flux.SingleStreamBlock, **options))
    assert (
        why_not(make_block(flux.DoubleStreamBlock, **options)) is None
    )  # its MLPs are called, whatever they are


SKIPPED = [
    (wan_model.WanAttentionBlock, "norm2"),
    (wan_model.WanAttentionBlock, "self_attn.norm_k"),
    (flux.DoubleStreamBlock, "txt_attn.norm"),
    (flux.DoubleStreamBlock, "img_norm1"),
    (flux.SingleStreamBlock, "norm.query_norm"),
    (flux.SingleStreamBlock, "mlp_act"),
]
skipped = pytest.mark.parametrize(("cls", "name"), SKIPPED, ids=lambda x: getattr(x, "__name__", x))


@skipped
def test_a_part_with_a_hook_is_called(cls, name):
    block, seen = make_block(cls), []
    assert why_not(block) is None
    part = block.get_submodule(name)
    handle = part.register_forward_hook(lambda *a: seen.append(1))
    assert why_not(block) == f"a hook on {name.removeprefix('self_attn.')}"
    handle.remove()
    part.register_forward_pre_hook(lambda *a: seen.append(1))
    assert "a hook on" in why_not(block)
    assert len(seen) == 4  # twice with fusion and twice without


@skipped
def test_a_part_whose_forward_was_replaced_is_called(cls, name):
    block = make_block(cls)
    assert why_not(block) is None
    part = block.get_submodule(name)

    def twice(*arguments):
        out = type(part).forward(part, *arguments)
        return tuple(2 * x for x in out) if isinstance(out, tuple) else 2 * out

    part.forward = twice
    assert "another pack's forward of" in why_not(block)


class Halved(nn.LayerNorm):
    """Has every attribute of a LayerNorm."""

    def forward(self, x):
        return super().forward(x) / 2


def test_a_norm_of_another_class(monkeypatch):
    block = make_block(wan_model.WanAttentionBlock)
    assert why_not(block) is None
    block.norm1 = Halved(WIDTH, 1e-6, elementwise_affine=False)
    assert why_not(block).startswith(RESULTS_DIFFER)
    block.norm1 = nn.Identity()
    assert "Identity" in why_not(block)


def test_a_changed_epsilon_is_used(proofs):
    block = make_block(wan_model.WanAttentionBlock)
    assert why_not(block) is None
    block.norm1.eps = 0.5
    assert why_not(block) is None
    assert len(proofs) == 3  # the block, its attention, and the changed block


HELPERS = {  # functions of ComfyUI's that its blocks call -> one of the blocks
    (wan_model, "repeat_e"): wan_model.WanAttentionBlock,
    (wan_model, "apply_rope1"): wan_model.WanAttentionBlock,
    (flux, "apply_mod"): flux.SingleStreamBlock,
    (sys.modules["comfy.ldm.flux.math"], "apply_rope"): flux.DoubleStreamBlock,
}


@pytest.mark.parametrize("place", HELPERS, ids=lambda place: place[1])
def test_a_function_that_another_pack_replaced(place, monkeypatch):
    block = make_block(HELPERS[place])
    assert why_not(block) is None
    module, name = place
    plain = getattr(module, name)

    def theirs(*arguments):
        out = plain(*arguments)
        return tuple(x.flip(-1) for x in out[:1]) + out[1:] if isinstance(out, tuple) else 1.5 * out

    monkeypatch.setattr(module, name, theirs)
    assert why_not(block).startswith(RESULTS_DIFFER)


LAST = "repeat_e(e[5], x))\n    return x"  # the end of a Wan block's forward


def test_an_unknown_argument(monkeypatch):
    cls, signature = wan_model.WanAttentionBlock, "transformer_options={},\n):"
    edits = (signature, f"boost=1, {signature}"), (LAST, f"{LAST} * boost")
    edit_source(monkeypatch, cls, *edits)
    block = make_block(cls)
    assert why_not(block) is None
    assert why_not(block, boost=2.0).endswith("boost")


def test_an_unknown_patch(monkeypatch):
    cls = wan_model.WanAttentionBlock
    new = f"{LAST} if 'mlp_patch' not in patches else patches['mlp_patch'][0](x)"
    edit_source(monkeypatch, cls, (LAST, new))
    block = make_block(cls)
    assert why_not(block) is None
    options = {"patches": {"mlp_patch": [lambda x: 2 * x]}}
    assert why_not(block, transformer_options=options) == "mlp_patch in transformer_options"
    elsewhere = {"patches": {"double_block": [None], "mlp_patch": []}}
    with pytest.raises(
        IndexError
    ):  # raised by the edited forward: an empty list counts as no patch
        why_not(block, transformer_options=elsewhere)
    del elsewhere["patches"]["mlp_patch"]
    assert why_not(block, transformer_options=elsewhere) is None


def test_an_unknown_option(monkeypatch):
    cls = wan_model.WanAttentionBlock
    edit_source(monkeypatch, cls, (LAST, f"{LAST} * transformer_options.get('gain', 1)"))
    block = make_block(cls)
    assert why_not(block, transformer_options={"block_index": 0}) is None
    assert why_not(block, transformer_options={"gain": 2}) == "gain in transformer_options"


def test_patches_of_wan_run_in_its_fused_blocks(proofs):
    def theirs(seen):
        return seen["x"] * 2 + (seen["q"] * seen["k"]).flatten(2) if "q" in seen else -seen["x"]

    block = make_block(wan_model.WanAttentionBlock)
    for names in ([], ["attn1_patch"], ["attn2_patch"], ["attn1_patch", "attn2_patch"]):
        options = {"patches": {name: [theirs, theirs] for name in names}}
        assert why_not(block, transformer_options=options) is None
    assert len(proofs) == 4 + 2  # the attention only calls the first patch


def test_a_patch_inside_hunyuans_attention_is_not_fused(monkeypatch):
    def theirs(attn, _options):
        return 2 * attn

    options = {"patches": {"attn1_output_patch": [theirs]}}
    for cls in CLASSES[1:]:
        why = why_not(make_block(cls), transformer_options=options)
        assert why == "attn1_output_patch in transformer_options"


def test_a_mask_is_part_of_the_proof(monkeypatch):
    mask = torch.zeros(1, 1, TOKENS + TEXT)
    mask[..., :3] = -1e9
    block = make_block(flux.SingleStreamBlock)
    assert why_not(block, attn_mask=mask) is None
    edit_source(monkeypatch, flux.SingleStreamBlock, ("mask=attn_mask", "mask=None"))
    assert why_not(block) is None
    assert why_not(block, attn_mask=mask).startswith(RESULTS_DIFFER)


def test_the_arguments_of_attention_are_part_of_the_proof(monkeypatch):
    cls, heads = wan_model.WanSelfAttention, "heads=self.num_heads,"
    edit_source(monkeypatch, cls, (heads, f"{heads} low_precision_attention=False,"))
    assert "attention with other arguments" in why_not(make_block(CLASSES[0]))


def test_a_renamed_internal_only_affects_its_family(monkeypatch):
    monkeypatch.setattr(flux, "attend", flux.attention, raising=False)
    for cls in CLASSES[1:]:
        edit_source(monkeypatch, cls, ("attention(q, k, v", "attend(q, k, v"))
    monkeypatch.delattr(flux, "attention")
    for cls in CLASSES[1:]:
        assert why_not(make_block(cls)) == f"ComfyUI has no attention beside its {cls.__name__}"
    assert why_not(make_block(CLASSES[0])) is None


def test_none_of_comfyuis_internals_is_imported(monkeypatch):
    models = "comfy.ldm.wan.model", "comfy.ldm.flux.layers", "comfy.ldm.minimax.model"
    for name in (*models, "comfy.model_management"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("wan", "hunyuan", "minimax_h3"):
        file = pack_module(f"nodes.fused_blocks.{name}").__name__
        monkeypatch.delitem(sys.modules, file)
        importlib.import_module(file)


@pytest.mark.parametrize("blocks", [5, [None], [nn.Identity(), object()]], ids=str)
def test_any_model_is_accepted(blocks):
    net = net_with(blocks)
    with pack_module("nodes.fused_blocks").fused_blocks(net):
        pass


def test_other_packs_see_nothing_of_the_proof():
    block, seen = make_block(wan_model.WanAttentionBlock), []
    for name in ("self_attn", "cross_attn", "ffn", "ffn.0"):
        block.get_submodule(name).register_forward_hook(lambda *a: seen.append(1))
    plain = block.cross_attn.forward
    block.cross_attn.forward = lambda *a, **k: [seen.append(1), plain(*a, **k)][1]
    state = torch.get_rng_state()
    assert why_not(block) is None
    assert len(seen) == 2 * 5
    assert torch.equal(torch.get_rng_state(), state)
    assert vars(block.cross_attn)["forward"] is not plain


def test_replaced_forwards_of_layers_need_no_new_proof(proofs):
    """ComfyUI's LoRAs in bypass mode do this. The layers are called, whatever they compute."""
    for scale in (1, 2):
        block = make_block(wan_model.WanAttentionBlock)
        for name in ("self_attn.q", "ffn.0"):
            layer = block.get_submodule(name)
            layer.forward = lambda x, plain=layer.forward, scale=scale: scale * plain(x)
        assert why_not(block) is None
    assert len(proofs) == 2


def test_a_parametrization_and_a_hook_on_all_modules(monkeypatch):
    block, seen = make_block(wan_model.WanAttentionBlock), []
    handle = nn.modules.module.register_module_forward_pre_hook(lambda *a: seen.append(1))
    try:
        assert why_not(block) == "a hook on all modules"
    finally:
        handle.remove()
    norm = block.self_attn.norm_q
    nn.utils.parametrize.register_parametrization(norm, "weight", Doubled())
    assert why_not(block) is not None


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


def test_a_hooked_layer_gets_the_same_number_of_dimensions():
    block = make_block(flux.SingleStreamBlock)
    assert why_not(block) is None
    block.linear2.register_forward_hook(lambda layer, args, y: y * args[0].ndim)
    assert why_not(block) is None


def test_a_proof_that_raises_is_tried_again(monkeypatch):
    proof, block = pack_module("nodes.fused_blocks.proof"), make_block(flux.SingleStreamBlock)
    compare, errors = proof.compare, [torch.OutOfMemoryError("no"), ValueError("odd")]

    def theirs(*arguments):
        if errors:
            raise errors.pop()
        return compare(*arguments)

    monkeypatch.setattr(proof, "compare", theirs)
    assert why_not(block) == "the proof failed: ValueError: odd"
    assert why_not(block) == "no memory for the proof"
    assert why_not(block) is None
    other = make_block(flux.DoubleStreamBlock)
    errors += [ValueError("odd")] * 4
    for _ in range(5):
        assert why_not(other) == "the proof failed: ValueError: odd"
    assert len(errors) == 1  # tried three times and no more


def test_a_cancel_during_a_proof_is_raised(monkeypatch):
    def cancelled(*arguments):
        raise comfy.model_management.InterruptProcessingException

    monkeypatch.setattr(pack_module("nodes.fused_blocks.proof"), "compare", cancelled)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        why_not(make_block(flux.SingleStreamBlock))


def last_run(model) -> dict:
    return pack_module("nodes.hook.attach").override_of(model).runs[-1].read()


def log_messages(caplog) -> list[str]:
    return [r.getMessage() for r in caplog.records if "Norms are not fused" in r.getMessage()]


def test_a_render_proves_each_kind_of_block_once(wan, proofs):
    plain = sample(wan, steps=2, sampler="euler_ancestral")
    model = patch(wan, dense_steps=100, dense_attention="comfyui")
    assert difference(sample(model, steps=2, sampler="euler_ancestral"), plain) < 1e-4
    assert len(proofs) == 2  # the block, and its attention
    assert last_run(model)["blocks_not_fused"] == 0


def test_unfused_calls_are_counted_and_logged(wan, caplog):
    model = patch(wan, dense_steps=100)
    first, second, _ = wan.get_model_object("diffusion_model").blocks
    handles = [
        first.norm1.register_forward_hook(lambda *a: None),
        second.self_attn.norm_q.register_forward_hook(lambda *a: None),
    ]
    try:
        with caplog.at_level("INFO"):
            sample(model, steps=5, cfg=1.0)
    finally:
        for handle in handles:
            handle.remove()
    run = last_run(model)
    assert (run["fused_blocks"], run["blocks_not_fused"]) == (5, 10)
    assert run["why_not_fused"] == {"a hook on norm1": 5, "a hook on norm_q": 5}
    report = pack_module("nodes.run.summary_text").report(run)
    assert all(fact in report for fact in ("33 %", "a hook on norm1", "a hook on norm_q"))
    assert len(log_messages(caplog)) == 2


def test_blocks_without_a_fused_form_are_counted_and_logged(caplog):
    case = next(case for case in zoo.CASES if case.name == "mochi")
    model = patch(case.model(), dense_steps=100)
    with caplog.at_level("INFO"):
        zoo.sample(model, case.inputs(), steps=2)
    run = last_run(model)
    assert run["fused_blocks"] == 0 < run["blocks_not_fused"]
    assert list(run["why_not_fused"]) == ["AsymmetricJointBlock has no fused form"]
    assert len(log_messages(caplog)) == 1


def test_blocks_with_unknown_source_are_fused(wan, monkeypatch):
    for cls in (wan_model.WanAttentionBlock, wan_model.WanSelfAttention):
        edit_source(monkeypatch, cls)
    model = patch(wan, dense_steps=100)
    sample(model, steps=2, cfg=1.0)
    assert last_run(model)["why_not_fused"] == {} and last_run(model)["fused_blocks"] == 6
