"""What a family states is what its models get; what it leaves out is off, and says why."""

import sys
from dataclasses import replace

import pytest
import zoo
from conftest import difference, pack_module, patch
from test_blocks import fuse_on_cpu
from trainer import layers

import nodes

base = pack_module("nodes.families.base")
registry = pack_module("nodes.families.registry")
texts = pack_module("nodes.families.node_texts")

MOCHI = next(case for case in zoo.CASES if case.name == "mochi")
ALL = registry.FAMILIES
NAME = "a family of the least facts"


@pytest.fixture
def least(monkeypatch):
    """Mochi, as if its family stated nothing that can be left out."""
    known = registry.family_of(MOCHI.model().get_model_object("diffusion_model"))
    family = base.Family(NAME, known.classes, known.presets, known.head_dim)
    others = [each for each in registry.FAMILIES if each is not known]
    monkeypatch.setattr(registry, "FAMILIES", (*others, family))
    return MOCHI.model()


def run_of(model):
    return pack_module("nodes.hook.attach").override_of(model).runs[-1].read()


def test_the_least_is_enough_for_radial_attention(least, summaries, any_density, monkeypatch):
    settings = {"dense_blocks": 1, "dense_steps": 0}
    out = zoo.sample(patch(least, **settings), MOCHI.inputs())
    ours = summaries.pop()
    assert ours["radial_calls"] == 2 * ours["model_calls"]
    assert ours["dense_calls"] == {"dense block": ours["model_calls"]}
    monkeypatch.setattr(registry, "FAMILIES", ALL)
    assert difference(out, zoo.sample(patch(least, **settings), MOCHI.inputs())) < 1e-5


def test_without_projections_no_layers_are_trained(least):
    with pytest.raises(ValueError, match=f"^model must .*, got {NAME}"):
        layers(least)


def test_without_blocks_none_is_fused_and_without_forms_each_says_so(least, monkeypatch):
    fuse_on_cpu(monkeypatch)
    patched = patch(least, dense_steps=100)
    zoo.sample(patched, MOCHI.inputs(), steps=1)
    assert run_of(patched)["fused_blocks"] == run_of(patched)["blocks_not_fused"] == 0

    *others, family = registry.FAMILIES
    lists = (base.BlockList("blocks", "AsymmetricJointBlock"),)
    monkeypatch.setattr(registry, "FAMILIES", (*others, replace(family, block_lists=lists)))
    patched = patch(least, dense_steps=100)
    zoo.sample(patched, MOCHI.inputs(), steps=1)
    run = run_of(patched)
    assert run["fused_blocks"] == 0 < run["blocks_not_fused"]
    assert list(run["why_not_fused"]) == ["AsymmetricJointBlock has no fused form"]


def test_without_a_size_or_an_entry_there_is_no_preview(least, monkeypatch):
    node = nodes.NODE_CLASS_MAPPINGS["RadialMaskPreview"]
    inputs = ("Wan 2.1 14B", 832, 480, 81, 0.0, -1, -1, "128")
    with pytest.raises(ValueError, match=f"^model must .*: .*{NAME}"):
        node.execute(*inputs, model=least)
    *others, family = registry.FAMILIES
    sized = replace(family, size=pack_module("nodes.families.mochi").FAMILY.size)
    monkeypatch.setattr(registry, "FAMILIES", (*others, sized))
    with pytest.raises(ValueError, match=f"^model must .*: .*{NAME} in its catalog"):
        node.execute(*inputs, model=least)


def test_without_a_size_the_probe_says_why_it_reads_nothing(least):
    probe = pack_module("nodes.probing.hook").probe_of
    model = nodes.NODE_CLASS_MAPPINGS["RadialAttentionProbe"].execute(least, "0", "all", 32)
    zoo.sample(model.args[0], MOCHI.inputs())
    found = probe(model.args[0]).latest
    (why,) = found.reasons
    assert NAME in why and not found.calls


def test_a_file_of_fused_forms_that_fails_costs_its_own_family_alone(monkeypatch):
    blocks, features = pack_module("nodes.fused_blocks"), pack_module("nodes.comfyui.features")
    features.load.cache_clear()
    monkeypatch.setattr(features, "_missing", {})
    monkeypatch.setitem(sys.modules, pack_module("nodes.fused_blocks.wan").__name__, None)
    forms = {family.name: blocks._forms_of(family) for family in registry.FAMILIES}
    features.load.cache_clear()
    assert forms["Wan"] == {} != forms["HunyuanVideo"]
    assert list(features.missing()) == ["fused blocks for Wan"]


def test_texts_on_nodes_name_every_family():
    for family in registry.FAMILIES:
        for node in ("RadialAttentionPatch", "RadialAttentionProbe"):
            inputs = nodes.NODE_CLASS_MAPPINGS[node].INPUT_TYPES()["required"]
            assert family.name in inputs["model"][1]["tooltip"]
        for setting in ("decay", "sink_frames", "dense_blocks"):
            for preset in family.presets:
                value = f"{getattr(preset, setting):g} for "
                (of_value,) = (
                    part for part in texts.preset_values(setting).split("; ") if value in part
                )
                assert preset.name in of_value or family.name in of_value


TYPICAL = [case for case in zoo.CASES if case.typical and case.is_there]


@pytest.mark.parametrize("case", TYPICAL, ids=lambda case: case.name)
def test_the_blocks_of_each_family_are_found(case):
    net = case.model().get_model_object("diffusion_model")
    blocks = pack_module("nodes.families.transformer_blocks").transformer_blocks(net)
    assert [place for place, _ in blocks] == list(range(len(case.calls)))


def test_latent_frames_read_as_one_says_it():
    of_usual, *others = texts.frames_per_latent_frame().split(", ")
    assert of_usual == "4 video frames each"
    assert {"6 in Mochi", "1 or 4 in MiniMax H3"} <= set(others)


def test_a_list_reads_as_one_says_it():
    assert texts.listed(["A"]) == "A"
    assert texts.listed("AB") == "A and B"
    assert texts.listed("ABC", "or") == "A, B or C"
