"""Model classes that another pack put in the place of ComfyUI's.

The pack here does it as real ones do: MagicWan and RES4LYF change the class of a loaded model,
BindWeave's subclass is what its loader makes. ComfyUI's own loader loads it from a folder.
"""

import asyncio
import sys
import types

import pytest
import torch
from conftest import BLOCKS, EVERYTHING, difference, newest_only, pack_module, patch, sample
from probing import measured, places, probe
from test_blocks import fuse_on_cpu
from trainer import layers

import nodes

registry = pack_module("nodes.families.registry")
NAME = "Other-Classes.v2"
SOURCE = '''
import torch
from comfy.ldm.wan.model import WanModel, sinusoidal_embedding_1d


class Longer(WanModel):
    """Puts tokens of its own in front of the text."""

    def forward_orig(self, x, t, context, **kwargs):
        own = torch.ones_like(context[:, :5])
        return super().forward_orig(x, t, torch.cat([own, context], 1), **kwargs)


class Own(WanModel):
    """Runs the blocks in a loop of its own."""

    order = None

    def forward_orig(self, x, t, context, freqs, transformer_options, **kwargs):
        x = self.patch_embedding(x.float()).to(x.dtype)
        grid = x.shape[2:]
        x = x.flatten(2).transpose(1, 2)
        e = self.time_embedding(sinusoidal_embedding_1d(self.freq_dim, t).to(x.dtype))
        e0 = self.time_projection(e).unflatten(1, (6, self.dim))
        context = self.text_embedding(context)
        if self.order is not None:
            x, freqs = x[:, self.order], freqs[:, self.order]
        for block in self.blocks:
            x = block(x, e0, freqs, context, transformer_options=transformer_options)
        if self.order is not None:
            x = x[:, self.order.argsort()]
        return self.unpatchify(self.head(x, e), grid)


class Wider(WanModel):
    """Puts a frame in front of the video, and takes it off again."""

    def _forward(self, x, *args, **kwargs):
        x = torch.cat([torch.zeros_like(x[:, :, :1]), x], 2)
        return super()._forward(x, *args, **kwargs)[:, :, 1:]


class Unrelated(torch.nn.Module):
    """No subclass, but with all that it needs of one."""

    forward, rope_encode = WanModel.forward, WanModel.rope_encode
    _forward, forward_orig = WanModel._forward, WanModel.forward_orig
    unpatchify = WanModel.unpatchify
    if hasattr(WanModel, "rope_embedder"):
        rope_embedder = WanModel.rope_embedder


NODE_CLASS_MAPPINGS = {}
'''


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """The other pack's module."""
    folder = tmp_path_factory.mktemp("a.folder") / "custom_nodes" / NAME
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(SOURCE, encoding="utf-8")
    (folder / "__init__.py").write_text("from .model import *  # noqa", encoding="utf-8")
    assert asyncio.run(nodes.load_custom_node(str(folder)))
    name = next(name for name in sys.modules if name.endswith(f"{NAME.replace('.', '_x_')}.model"))
    return sys.modules[name]


def as_class(model, cls):
    """The model with another class, which stays on its network."""
    model.model.diffusion_model.__class__ = cls
    return model


SETTINGS = {"dense_steps": 1, "dense_blocks": 1}


def test_a_subclass_runs_as_the_class_it_was_made_from(own_wan, other, summaries, any_density):
    expected = sample(patch(own_wan, **SETTINGS))
    out = sample(patch(as_class(own_wan, other.Own), **SETTINGS))
    assert torch.equal(out, expected)
    assert summaries[0] == summaries[1] and summaries[0]["radial_calls"] > 0


def test_one_that_adds_text_is_radial_too(own_wan, other, summaries, any_density):
    model = as_class(own_wan, other.Longer)
    kept = sample(patch(model, **EVERYTHING))
    assert difference(kept, sample(model)) < 1e-4
    assert summaries[0]["radial_calls"] == BLOCKS * summaries[0]["model_calls"]


def test_one_that_reorders_the_tokens_stays_dense(own_wan, other, summaries, any_density):
    plain, model = sample(own_wan), as_class(own_wan, other.Own)
    order = torch.randperm(540, generator=torch.Generator().manual_seed(2))
    model.model.diffusion_model.order = order
    assert difference(sample(patch(model)), plain) < 1e-5
    (summary,) = summaries
    assert summary["radial_calls"] == 0
    why = f"Own of {NAME} reorders the video's tokens"
    assert summary["dense_calls"][why] == BLOCKS * summary["model_calls"]


def test_one_that_makes_the_video_longer_stays_dense(own_wan, other, summaries, any_density):
    model = as_class(own_wan, other.Wider)
    plain = sample(model)
    assert torch.equal(sample(patch(model)), plain)
    assert summaries[0]["radial_calls"] == 0
    assert "600 tokens are not a video of 9x6x10" in summaries[0]["text"]


def test_one_that_is_no_subclass_is_named_with_its_pack(own_wan, other, summaries, any_density):
    model = as_class(own_wan, other.Unrelated)
    assert torch.equal(sample(patch(model)), sample(model))
    why = f"Unrelated of {NAME} is not a model this pack knows"
    assert summaries[0]["dense_calls"] == {why: summaries[0]["model_calls"]}
    with pytest.raises(ValueError, match=f"^model must be .*, got Unrelated of {NAME}$"):
        layers(model)


def test_what_else_the_pack_does_works_on_a_subclass(
    own_wan, other, summaries, any_density, monkeypatch
):
    fuse_on_cpu(monkeypatch)
    network = own_wan.model.diffusion_model
    size, blocks = registry.size_of(network), BLOCKS
    model = as_class(own_wan, other.Own)
    patched = patch(model)
    sample(patched)
    run = pack_module("nodes.hook.attach").override_of(patched).runs[-1].read()
    assert run["fused_blocks"] > 0 == run["blocks_not_fused"]
    probed = probe(model)
    sample(probed, steps=1)
    assert places(probed) == [(0, block) for block in range(blocks)]
    assert measured(probed).calls
    assert registry.size_of(network) == size
    layers(model)
    preview = nodes.NODE_CLASS_MAPPINGS["RadialMaskPreview"]
    preview.execute("Wan 2.1 14B", 832, 480, 81, 0.0, -1, -1, "128", model=model)


@newest_only("one version is enough")
def test_under_torch_compile(own_wan, other, summaries, any_density):
    expected = sample(patch(own_wan))
    model = as_class(own_wan, other.Own).clone()
    torch._dynamo.reset()
    whole = torch.compile(model.model.diffusion_model, backend="eager")
    assert registry.family_of(whole).name == "Wan"
    assert registry.class_name(whole) == f"Own of {NAME}"
    model.add_object_patch("diffusion_model", whole)
    assert difference(sample(patch(model)), expected) < 1e-5
    assert summaries[0]["radial_calls"] == summaries[1]["radial_calls"] > 0


def test_a_new_class_of_comfyuis_has_its_own_layout(own_wan):
    """ComfyUI makes a subclass because it does something else: see SCAIL, whose pose follows."""
    wan = type(own_wan.model.diffusion_model)
    for bases in ((wan,), (type("New", (wan,), {"__module__": wan.__module__}),)):
        module = wan.__module__ if bases == (wan,) else "a_pack"
        own_wan.model.diffusion_model.__class__ = type("Newer", bases, {"__module__": module})
        assert registry.family_of(own_wan.model.diffusion_model) is None
    assert registry.class_name(own_wan.model.diffusion_model) == "Newer of a_pack"


@pytest.mark.parametrize(
    "module, file, name",
    [
        ("/x/custom_nodes/Some-Pack.nodes.model", None, "Some-Pack"),
        ("/x_x_y/custom_nodes/Some_x_Pack", None, "Some.Pack"),
        (r"C:\ComfyUI\custom_nodes\Some-Pack.model", None, "Some-Pack"),
        ("/custom_nodes/ComfyUI/custom_nodes/Some-Pack", None, "Some-Pack"),
        ("wan.model", "/x/custom_nodes/Some-Pack/wan/model.py", "Some-Pack"),
        ("single", "/x/custom_nodes/single.py", "single"),
        ("some_package.model", "/x/site-packages/some_package/model.py", "some_package"),
        ("/tmp/elsewhere/Some-Pack.model", None, "Some-Pack"),
    ],
)
def test_the_name_of_a_pack(monkeypatch, module, file, name):
    monkeypatch.setitem(sys.modules, module, types.SimpleNamespace(__file__=file))
    assert pack_module("nodes.comfyui.packs").pack_name(module) == name
