"""The choice of a configuration, with a fake GPU and clock."""

import json
from dataclasses import replace

import pytest
import torch

from radial_core import RadialPattern, VideoLayout, failures, make_plan
from radial_core.backends import reference, triton, triton_int8
from radial_core.call import Call

pytest.importorskip("triton")
from radial_core.kernels import hopper_launch, portable_launch, tuning  # noqa: E402
from radial_core.kernels.portable_launch import Tiles  # noqa: E402
from radial_core.kernels.tuning import HOPPER, INT8, SAFE, TRITON, best_config  # noqa: E402

CALL = Call(torch.device("cuda", 0), torch.bfloat16, 128, 128)
# The last: what is measured, which few tests here come to.
KIND = (CALL.device, CALL.dtype, 128, 128, None)
FAST, FAST_INT8 = TRITON.candidates[128][2], INT8.candidates[128][4]


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """A GPU on which FAST and FAST_INT8 are the fastest; the list has all measurements."""
    measured = []

    def measure(options, *kind):
        measured.append(options)
        return {option: 1.0 if option in (FAST, FAST_INT8) else 2.0 for option in options}

    monkeypatch.setenv("RADIAL_ATTENTION_CACHE", str(tmp_path))
    monkeypatch.setattr(tuning, "capability", lambda device: (8, 6))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "RTX 3060")
    monkeypatch.setattr(tuning, "_measure", measure)
    new_process(monkeypatch)
    return measured


def new_process(monkeypatch):
    monkeypatch.setattr(tuning, "_chosen", {})
    monkeypatch.setattr(failures, "_reasons", {})


def test_measures_once_and_keeps_the_best_on_disk(gpu, monkeypatch, tmp_path):
    assert [best_config(TRITON, *KIND) for _ in range(3)] == [FAST] * 3
    new_process(monkeypatch)
    assert best_config(TRITON, *KIND) == FAST and len(gpu) == 1
    ((name, kept),) = json.loads((tmp_path / "triton.json").read_text()).items()
    assert tuple(kept) == FAST
    for part in (
        "triton on",
        "RTX 3060",
        "bfloat16",
        "head_dim 128",
        "blocks of 128",
        "triton ",
        "kernels ",
    ):
        assert part in name


def test_each_kind_of_call_has_its_own_configuration(gpu, tmp_path):
    best_config(TRITON, *KIND)
    best_config(TRITON, KIND[0], torch.float16, 64, 64, None)
    assert len(gpu) == 2 and len(json.loads((tmp_path / "triton.json").read_text())) == 2


def test_two_kernels_share_no_choice(gpu, monkeypatch, tmp_path):
    both = [(TRITON, FAST), (INT8, FAST_INT8)]
    for _ in range(2):
        assert [best_config(kernel, *KIND) for kernel, _ in both] == [best for _, best in both]
        new_process(monkeypatch)
    assert gpu == [list(kernel.candidates[128]) for kernel, _ in both]
    assert len(json.loads((tmp_path / "triton.json").read_text())) == 2


def test_a_kernel_that_fails_leaves_the_others_tuned(gpu, monkeypatch):
    measure, other = tuning._measure, replace(INT8, safe=Tiles(32, 32, 4, 1))

    def fails_in_8_bits(options, kernel, *rest):
        if kernel is other:
            raise RuntimeError("illegal instruction")
        return measure(options, kernel, *rest)

    monkeypatch.setattr(tuning, "_measure", fails_in_8_bits)
    assert best_config(other, *KIND) == other.safe
    assert best_config(TRITON, *KIND) == FAST
    assert failures.earlier("tuning of triton_int8", CALL)
    assert not failures.earlier("tuning of triton", CALL)


def test_each_kernel_is_held_to_its_own_accuracy():
    """One that is off by 1 % works where 2.5 % are allowed."""
    call = replace(CALL, device=torch.device("cpu"), dtype=torch.float16)

    def run(*arguments, config):
        out, lse = reference.run(*arguments)
        return 1.01 * out, lse

    assert INT8.accuracy is triton_int8.ACCURACY
    assert tuning._works(SAFE, INT8, call, run)
    assert not tuning._works(SAFE, TRITON, call, run)


@pytest.mark.parametrize("text", ["", "[1, 2]", "{not json", '{"x": "hopper"}'])
def test_a_broken_file_is_replaced_by_a_new_measurement(gpu, tmp_path, text):
    (tmp_path / "triton.json").write_text(text)
    assert best_config(TRITON, *KIND) == FAST
    assert len(gpu) == 1


def test_a_former_candidate_is_measured_again(gpu, monkeypatch, tmp_path):
    best_config(TRITON, *KIND)
    path = tmp_path / "triton.json"
    path.write_text(path.read_text().replace(str(FAST.block_m), "512"))
    new_process(monkeypatch)
    assert best_config(TRITON, *KIND) == FAST and len(gpu) == 2


def test_a_failing_measurement_gives_the_safe_configuration_and_saves_nothing(
    gpu, monkeypatch, tmp_path
):
    def out_of_memory(*arguments):
        raise torch.OutOfMemoryError("q, k and v")

    for measure in (out_of_memory, lambda *arguments: {}):
        monkeypatch.setattr(tuning, "_measure", measure)
        new_process(monkeypatch)
        assert best_config(TRITON, *KIND) == SAFE
    assert not (tmp_path / "triton.json").exists()


def test_a_read_only_folder_is_no_error(gpu, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RADIAL_ATTENTION_CACHE", str(tmp_path / "file" / "below"))
    assert best_config(TRITON, *KIND) == FAST


@pytest.mark.parametrize(
    "capability, head_dim, block_size, has",
    [
        ((9, 0), 128, 128, True),
        ((9, 0), 80, 128, False),
        ((9, 0), 128, 64, False),
        ((8, 0), 128, 128, False),
    ],
)
def test_hoppers_own_kernel_is_a_candidate_on_hopper(
    monkeypatch, capability, head_dim, block_size, has
):
    monkeypatch.setattr(tuning, "capability", lambda device: capability)
    call = replace(CALL, head_dim=head_dim, block_size=block_size)
    for kernel in (TRITON, INT8):
        options = tuning.candidates(kernel, call)
        assert (options[0] == HOPPER) == has and SAFE in options


@pytest.mark.parametrize("kernel", [TRITON, INT8], ids=lambda kernel: kernel.name)
@pytest.mark.parametrize("block_size", [64, 128])
def test_other_gpus_have_more_candidates_that_fit_the_block(monkeypatch, kernel, block_size):
    kernel = replace(kernel, elsewhere=(Tiles(64, 16, 4, 1), Tiles(128, 32, 8, 1)))
    monkeypatch.setattr(tuning, "capability", lambda device: (0, 0))
    own = kernel.candidates[block_size]
    options = tuning.candidates(kernel, replace(CALL, block_size=block_size))
    assert options == own + kernel.elsewhere[: block_size // 64]


@pytest.mark.parametrize("works", [True, False])
def test_hoppers_own_kernel_is_not_measured_if_it_works(gpu, monkeypatch, works):
    monkeypatch.setattr(tuning, "capability", lambda device: (9, 0))
    monkeypatch.setattr(tuning, "_works", lambda *arguments: works)
    assert best_config(TRITON, *KIND) == (HOPPER if works else FAST)
    assert gpu == ([] if works else [list(TRITON.candidates[128])])
    new_process(monkeypatch)
    assert best_config(TRITON, *KIND) == (HOPPER if works else FAST)


@pytest.mark.parametrize("config", [HOPPER, FAST])
@pytest.mark.parametrize("asked", [True, False], ids=["to be measured", "the best"])
def test_a_configuration_runs_its_own_kernel(monkeypatch, config, asked):
    launched = []
    plan = make_plan(RadialPattern(0.2, 1, 64), VideoLayout(2, 5, 9))
    lists = (plan.indptr, plan.indices, plan.order, 64, 0.3, True)
    for module, prefix in ((hopper_launch, ()), (portable_launch, (FAST,))):

        def run(*arguments, module=module, prefix=prefix):
            assert arguments == (*prefix, q, q, q, *lists)
            launched.append(module)

        monkeypatch.setattr(module, "run", run)
    monkeypatch.setattr(tuning, "best_config", lambda *kind: config)
    q = torch.zeros(1, plan.tokens, 1, 64)
    triton.run(q, q, q, plan, 0.3, True, **({"config": config} if asked else {}))
    assert launched == [hopper_launch if config == HOPPER else portable_launch]
