"""The weights that the other GPUs get: those of the MODEL that runs, once and when they change."""

import gc
import logging
import time
from collections import Counter

import comfy.memory_management
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.quant_ops
import comfy.sd
import folder_paths
import pytest
import torch
from comfy_extras.nodes_model_merging import ModelMergeSimple
from conftest import difference, load, newest_only, pack_module, with_lora
from conftest import sample as sample_stand_in
from multi_gpu import (
    cards,  # noqa: F401  (a fixture)
    sample,
    split,
    split_passes,
    team,
    wide,
)
from test_compat_weights import quantized

import nodes

replica = pack_module("nodes.cards.replica")


@pytest.fixture(scope="module")
def model():
    return wide()


@pytest.fixture(autouse=True)
def log(caplog):
    caplog.set_level(logging.INFO, "radial_attention")
    return caplog


@pytest.fixture(autouse=True)
def sent(monkeypatch):
    """How many messages of each kind the other card got."""
    counts, tell = Counter(), team.Team.tell

    def counted(self, message):
        counts[type(message).__name__] += 1
        return tell(self, message)

    monkeypatch.setattr(team.Team, "tell", counted)
    return counts


def lora(model, strength: float = 1.0, seed: int = 0):
    """A LoRA on the matrices of all blocks."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, x in model.model.diffusion_model.state_dict().items():
        if name.startswith("blocks.") and name.endswith(".weight") and x.ndim == 2:
            key = f"diffusion_model.{name.removesuffix('.weight')}"
            down = torch.randn(4, x.shape[1], generator=generator)
            weights[f"{key}.lora_A.weight"] = down / x.shape[1] ** 0.5
            weights[f"{key}.lora_B.weight"] = torch.randn(x.shape[0], 4, generator=generator) / 4
    return comfy.sd.load_lora_for_models(model, None, weights, strength, 0)[0]


def check(model, log, within=1e-5, sample=sample):
    """Two cards give what one gives. Returns that."""
    out = sample(split(model))
    assert split_passes(log) == 2
    one = sample(model)
    assert difference(out, one) < within
    return one


@pytest.mark.oldest
def test_a_lora_goes_once_and_when_it_changes(model, log, sent):
    outputs = []
    for strength, replicas_sent in [(1.0, 1), (1.0, 0), (2.0, 1), (0.0, 1), (0.0, 0)]:
        sent.clear()
        if not outputs or strength != outputs[-1][0]:
            now = lora(model, strength) if strength else model
        outputs.append((strength, check(now, log)))
        assert sent["Replica"] == replicas_sent and bool(sent["Weight"]) == bool(replicas_sent)
    (_, one), _, (_, two), (_, none), _ = outputs
    assert min(difference(one, none), difference(two, none), difference(two, one)) > 1e-3


def test_two_loras_in_turn(model, log, sent):
    first, second = lora(model), lora(model, seed=1)
    for each in (first, second, first):
        check(each, log)
    assert sent["Replica"] == 3  # the base's replica has one of them


def test_another_base_and_back_finds_its_replica(model, log, sent):
    other = wide(seed=1)
    check(model, log)
    sent.clear()
    check(other, log)
    check(model, log)
    assert sent["Replica"] == 1 and sent["Pass"] == 4


def test_a_merge(model, log):
    other = wide(seed=1)
    merged = check(ModelMergeSimple().merge(model, other, 0.4)[0], log)
    assert all(difference(merged, sample(each)) > 1e-3 for each in (model, other))


def test_a_replica_ends_with_its_model(log, sent):
    other = wide(seed=2)
    check(other, log)
    (now,) = team._teams.values()
    kept = set(now.replicas)
    del other
    comfy.model_management.unload_all_models()
    gc.collect()
    comfy.model_management.cleanup_models_gc()
    end = time.monotonic() + 5
    while not sent["Forget"] and time.monotonic() < end:
        time.sleep(0.02)
    assert sent["Forget"] >= 1 and len(now.replicas) < len(kept)
    room = pack_module("nodes.cards.messages").Room
    ((_, still_there),) = now.ask(room(-1, 0))
    assert set(still_there) == set(now.replicas)


def test_what_made_room_for_another_goes_again(model, log, sent, monkeypatch):
    check(model, log)
    (now,) = team._teams.values()
    ask = now.ask

    def of_a_full_card(message):
        if type(message).__name__ != "Room":
            return ask(message)
        ask(message._replace(bytes=2**60))  # all go
        return ask(message)

    monkeypatch.setattr(now, "ask", of_a_full_card)
    check(lora(wide(seed=3)), log)
    sent.clear()
    check(model, log)
    assert sent["Replica"] == 1


def test_too_little_memory_says_the_numbers(model, log, monkeypatch):
    monkeypatch.setattr(replica, "weight_bytes", lambda _: 2**60)
    out = sample(split(lora(model, 3.0)))
    text = log.text
    assert "free, a replica needs 1073741824.0 GiB of weights and about" in text
    assert "one GPU: cpu has" in text and split_passes(log) == 0
    monkeypatch.undo()
    assert torch.equal(out, sample(lora(model, 3.0)))


def test_too_little_memory_for_a_share_of_a_pass(log, monkeypatch):
    model = wide(seed=5)
    monkeypatch.setattr(model.model, "memory_required", lambda *_, **__: 2**60)
    sample(split(model))
    assert "of weights and about 536870912.0 GiB for a pass" in log.text


def test_replicas_that_were_not_used_for_longest_make_room(monkeypatch):
    worker = pack_module("nodes.cards.worker").Worker(torch.device("cpu"), 1, 2)
    worker.models = dict.fromkeys([3, 1, 2])
    monkeypatch.setattr(worker, "_free", lambda: 10 - len(worker.models))
    assert worker._make_room(4, 8) == (8, [1, 2])


def test_an_error_in_sending_costs_the_other_cards_only(model, log, monkeypatch):
    changed = lora(model, 4.0)
    with monkeypatch.context() as patched:
        patched.setattr(replica, "weights_of", lambda _: iter([("x", None)]))
        out = sample(split(changed))
        assert "one GPU: the model's weights: AttributeError" in log.text
    assert torch.equal(out, check(changed, log))


def test_bf16(log):
    network = wide().model.diffusion_model
    weights = {name: x.bfloat16() for name, x in network.state_dict().items()}
    model = comfy.sd.load_diffusion_model_state_dict(weights, {"dtype": torch.bfloat16})
    assert model.model.get_dtype() == torch.bfloat16
    for each in (model, lora(model)):
        check(each, log, 1e-3)


@pytest.mark.parametrize("dtype", ["fp8_e4m3fn", "fp8_e4m3fn_fast", "fp8_e5m2"])
def test_weights_cast_by_the_loader(stand_ins, log, monkeypatch, dtype):
    folder = ([str(stand_ins / "diffusion_models")], folder_paths.supported_pt_extensions)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "diffusion_models", folder)
    (model,) = nodes.UNETLoader().load_unet("wan2.1_t2v_1.3B_fp16.safetensors", dtype)
    for each in (model, with_lora(model)):
        check(each, log, sample=sample_stand_in)


FORMATS = comfy.quant_ops.QUANT_ALGOS
ALL = [
    name if name in ("float8_e4m3fn", "nvfp4") else pytest.param(name, marks=pytest.mark.slow)
    for name in FORMATS
]


@newest_only("fewer formats")
@pytest.mark.parametrize("name", ALL)
def test_quantized_checkpoints(wan_weights, log, name):
    """Both formats of scales: one for a matrix, and one for each of its blocks."""
    model = load(*quantized(*wan_weights, name))
    for each in (model, with_lora(model)):
        check(each, log, sample=sample_stand_in)
    assert "state dict on uninitialized" not in log.text


def test_a_node_that_chooses_the_dtype(wan_weights, log, sent):
    model = load(*wan_weights)
    check(model, log, sample=sample_stand_in)
    model = model.clone()
    model.set_model_compute_dtype(torch.bfloat16)
    check(model, log, 1e-2, sample=sample_stand_in)
    assert sent["Replica"] == 2


def test_partly_loaded_weights(log, monkeypatch):
    """As on a GPU with little memory: the others get the LoRA that it applies in each pass."""
    loaded = comfy.model_management.LoadedModel
    model_load = loaded.model_load

    def load_half(self, *_args, **_options):
        return model_load(self, self.model_memory() / 2 - self.model_loaded_memory() + 1)

    monkeypatch.setattr(loaded, "model_load", load_half)
    model = lora(wide(seed=4))
    check(model, log)
    assert model.model.model_lowvram and any(key not in model.backup for key in model.patches)


def test_a_lora_that_widens_a_layer():
    """As those for control do. The model isn't run, because it needs a wider latent too."""
    base = wide()
    name = "patch_embedding.weight"
    model, weights = base.model.diffusion_model, dict(replica.weights_of(base))
    weights[name] = torch.cat([weights[name], weights[name]], 1)
    copied = replica.build(replica.blueprint(base.model))
    replica.fill(copied, weights)
    assert copied.patch_embedding.weight.shape[1] == 2 * model.patch_embedding.weight.shape[1]


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.bfloat16])
@newest_only("dynamic VRAM is of later versions")
def test_weights_with_dynamic_vram(monkeypatch, dtype):
    """They are what comfy.ops leaves on the card. There is no such card here: its parts are."""
    ops, memory = comfy.ops, comfy.memory_management
    layer = ops.manual_cast.Linear(32, 16, dtype=dtype)
    layer.weight = torch.nn.Parameter(torch.randn(16, 32).to(dtype), False)
    layer.bias = torch.nn.Parameter(torch.randn(16).to(dtype), False)
    base = torch.nn.Module()
    base.diffusion_model = torch.nn.Sequential(layer)
    base.manual_cast_dtype, base.get_dtype_inference = torch.bfloat16, lambda: torch.bfloat16
    patcher = comfy.model_patcher.ModelPatcher(base, torch.device("cpu"), torch.device("cpu"))
    key = "diffusion_model.0.weight"
    patcher.add_patches({key: ("diff", (torch.randn(16, 32),))})
    monkeypatch.setattr(patcher, "is_dynamic", lambda: True)
    layer.weight_lowvram_function = comfy.model_patcher.LowVramPatch(key, patcher.patches)
    layer.seed_key = "diffusion_model.0"
    sent = dict(replica.weights_of(patcher))
    geometry = memory.tensors_to_geometries([layer.weight, layer.bias])
    card = torch.zeros(memory.vram_aligned_size(geometry), dtype=torch.uint8)
    for place, x in zip(
        memory.interpret_gathered_like(geometry, card), (layer.weight, layer.bias), strict=True
    ):
        place.copy_(x)
    layer._prefetch = {
        "signature": object(),
        "resident": False,
        "xfer_dest": card,
        "cast_dest": None,
        "cast_geometry": geometry,
        "needs_cast": False,
    }
    call = torch.bfloat16, torch.device("cpu"), torch.bfloat16, None, False
    ops.resolve_cast_module_with_vbar(layer, *call)
    assert sent["0.weight"].dtype == dtype
    assert torch.equal(sent["0.weight"].float(), layer._v_weight.float())
    assert torch.equal(sent["0.bias"].float(), layer._v_bias.float())
    assert not torch.equal(sent["0.weight"].float(), layer.weight.float())
