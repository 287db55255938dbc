"""benchmarks/training.py: it times the real training step, and its estimates are right."""

import sys
from pathlib import Path

import pytest
import torch
from conftest import EVERYTHING, difference, patch

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from end_to_end_models import load, override_of  # noqa: E402

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
RANK = 4


@pytest.fixture(autouse=True)
def autocast_as_on_a_gpu(monkeypatch):
    """On a GPU, norms run in float32: HunyuanVideo's blocks can be trained, and Wan's q and k are
    float32 in attention."""
    for name in ("layer_norm", "rms_norm"):
        norm = getattr(torch.nn.functional, name)

        def in_float32(*args, norm=norm, **options):
            return norm(*(x.float() if isinstance(x, torch.Tensor) else x for x in args), **options)

        monkeypatch.setattr(torch.nn.functional, name, in_float32)


@pytest.fixture(scope="module", params=["wan", "hunyuan"])
def case(request):
    from training_cases import TINY

    return TINY[request.param]


@pytest.fixture(scope="module")
def model(case):
    from training_step import add_lora

    return add_lora(load(case.model, CPU, case.measured)[0], RANK)


def gradients(patcher, parameters, case, dense_blocks=None):
    """The gradients of a step's adapters by name, and the step's figures."""
    from training_step import Watch, checkpointed, optimizer_of, train

    result = {}

    def note(*_):
        result.update((name, x.grad.clone()) for name, x in parameters.items())

    optimizer = optimizer_of(parameters)
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.register_step_pre_hook(note)
    watch = Watch(CPU)
    net = patcher.model.diffusion_model
    with checkpointed(net, case.blocks, watch):
        run = train(patcher, optimizer, case.model, case.latent, watch)
    assert not any("forward" in vars(module) for module in net.modules())
    return result, run["steps"][0]


def of_all(result):
    return torch.cat([x.float().flatten() for x in result.values()])


def test_with_every_block_kept_the_gradients_are_the_dense_ones(model, case, any_density):
    from training import dense
    from training_attention import dense_kernels

    patcher, parameters = model
    plain, step = gradients(patcher, parameters, case)
    kernel = dense_kernels(CPU)["sdpa"]
    for other in (patch(patcher, **EVERYTHING, block_size=128), dense(patcher, kernel)):
        result, same = gradients(other, parameters, case)
        assert difference(of_all(result), of_all(plain)) < 0.02
        assert abs(same["loss"] - step["loss"]) < 1e-3 * step["loss"]


def test_the_radial_step_trains_every_layer(model, case):
    from training import by_recipe

    patcher, parameters = model
    radial_model = by_recipe(patcher)
    result, step = gradients(radial_model, parameters, case)
    plain, _ = gradients(patcher, parameters, case)
    down = [name for name in parameters if "lora_down" in name]
    assert len(result) == 2 * len(down) == len(parameters)
    assert all(x.isfinite().all() for x in result.values())
    assert all(result[name].any() for name in down)  # the others have no gradient in the first step
    assert difference(of_all(result), of_all(plain)) > 0.02  # the mask matters
    override = override_of(radial_model)
    radial_calls = override.runs[-1].read()["totals"]["radial_calls"]
    assert radial_calls == sum(case.blocks.values())
    assert sum(sum(each) for times in step["blocks"].values() for each in times) < step["s"]
    assert {name: len(times) for name, times in step["blocks"].items()} == case.blocks


def test_checkpoints_change_no_gradient(model, case, monkeypatch):
    """HunyuanVideo's blocks would overwrite what a checkpoint keeps, unless they run on copies."""
    from comfy_extras import nodes_train

    patcher, parameters = model
    with_them, _ = gradients(patcher, parameters, case)
    monkeypatch.setattr(nodes_train, "patch", lambda module: None)
    without, _ = gradients(patcher, parameters, case)
    assert difference(of_all(with_them), of_all(without)) < 1e-3


WAY = {
    "outside_s": 1.0,
    "optimizer_s": 0.5,
    "block_s": {"double_blocks": [[1.0, 3.0]], "single_blocks": [[0.5, 1.5]]},
}
ALONE = {"forward_ms": 100.0, "backward_ms": 300.0}


def test_the_whole_model_from_few_blocks():
    from training_cases import TINY
    from training_whole import whole

    half = {"outside_s": 1.0, "optimizer_s": 0.5, "block_s": {}}
    half["block_s"] = {"double_blocks": [[0.5, 1.5]], "single_blocks": [[0.25, 0.75]]}
    case = TINY["hunyuan"]  # 3 blocks of each kind, of which one each is run
    assert whole(case, WAY, WAY, 0) == 1 + 6 * 0.5 / 2 + 3 * 4 + 3 * 2
    assert whole(case, WAY, half, 2) == 1 + 6 * 0.5 / 2 + 2 * 4 + 2 + 3 * 1
    assert whole(case, WAY, half, 4) == 1 + 6 * 0.5 / 2 + 3 * 4 + 2 + 2 * 1


def test_a_step_estimated_from_a_shorter_one():
    """Attention is measured at each length; everything else grows with the tokens."""
    from training_cases import TINY
    from training_whole import estimated_from_shorter

    case = TINY["wan-2x"]
    way = {"outside_s": 1.0, "optimizer_s": 0.5, "block_s": {"blocks": [[1.0, 3.0]]}}
    way |= {"peak_gib": 30.0, "weights_gib": 10.0}
    shorter = {
        "tokens": case.tokens // 2,
        "attention": {"dense": ALONE, "radial": ALONE},
        "ways": {"dense": way, "radial": way},
    }
    long = {name: 4 * ms for name, ms in ALONE.items()}
    result = estimated_from_shorter(case, {"dense": long, "radial": ALONE}, shorter)
    assert result["dense"]["outside_s"] == 2.0
    assert result["dense"]["block_s"]["blocks"][0] == pytest.approx([2 * 0.9 + 0.4, 2 * 2.6 + 1.6])
    assert result["radial"]["block_s"]["blocks"][0] == pytest.approx([2 * 0.9 + 0.1, 2 * 2.6 + 0.4])
    assert result["dense"]["peak_gib"] == 10 + 2 * 20
