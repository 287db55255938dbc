"""Which backend takes a call, what becomes of one that fails, and the proof before the first."""

import json
import logging
import weakref
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from registering import forget, register

from radial_core import RadialPattern, VideoLayout, make_plan, proof
from radial_core.attention import attend, choose_backend, why_not
from radial_core.backends import BACKENDS, backend_module
from radial_core.backends import ranking as rankings
from radial_core.backends import reference as oracle
from radial_core.backends.contract import EXACT
from radial_core.backends.ranking import dense_ranking, ranking
from radial_core.call import Call, capability

CPU = torch.device("cpu")
CALL = Call(CPU, torch.float32, 16, 64)
LAYOUT = VideoLayout(4, 5, 9, suffix=20)
PROOF = proof.LAYOUT
PLAN = make_plan(RadialPattern(0.1, 1, 64), LAYOUT)


class Backend:
    """A backend made for a test: exact unless told otherwise."""

    ACCURACY = EXACT

    def __init__(self, run=oracle.run, reason=None):
        self.calls, self._run, self.reason = 0, run, reason

    def why_not(self, call):
        return self.reason

    def run(self, *arguments):
        self.calls += 1
        return self._run(*arguments)


@pytest.fixture
def install(monkeypatch):
    """Registers backends of these names in place of the real ones, ranked in this order.

    What their proof finds is not the question of most tests, so it is small in these.
    """
    forget()
    monkeypatch.setattr(proof, "LAYOUT", VideoLayout(3, 5, 9, prefix=7, suffix=5))

    def install(**made):
        register(monkeypatch, **made)
        return made

    yield install
    forget()


def draw(requires_grad=False):
    q, k, v = torch.randn(3, 1, LAYOUT.tokens, 2, 16).unbind(0)
    return [x.requires_grad_(requires_grad) for x in (q, k, v)]


def fails(error):
    def run(*arguments):
        raise error

    return run


def dense(q, k, v, plan, softmax_scale, return_lse):
    everything = make_plan(RadialPattern(sink_frames=plan.layout.frames), plan.layout)
    return oracle.run(q, k, v, everything, softmax_scale, return_lse)


def attends_to_padding(q, k, v, plan, softmax_scale, return_lse):
    """As a kernel does that pads to whole blocks with zeros."""
    missing = -q.shape[1] % plan.block_size
    layout = VideoLayout(1, 1, 1, suffix=q.shape[1] + missing - 1)
    q, k, v = (torch.nn.functional.pad(x, (0, 0, 0, 0, 0, missing)) for x in (q, k, v))
    padded = type(plan)(plan.mask, layout, plan.indptr, plan.indices)
    out, lse = oracle.run(q, k, v, padded, softmax_scale, return_lse)
    return out[:, : plan.tokens], lse


def half_precision_logits(q, k, v, plan, softmax_scale, return_lse):
    """Overflows when logits are large."""
    if (q * softmax_scale).abs().max() * k.abs().max() > 300:
        return torch.full_like(q, torch.nan), None
    return oracle.run(q, k, v, plan, softmax_scale, return_lse)


def test_auto_takes_the_first_that_can(install):
    made = install(a=Backend(reason="a is not installed"), b=Backend(), c=Backend())
    *_, name = attend(*draw(), PLAN)
    assert name == "b" and made["c"].calls == 0
    assert choose_backend("auto", CALL) == "b" and why_not("a", CALL) == "a is not installed"


def test_a_named_one_that_cannot_is_refused_with_its_reason(install):
    install(a=Backend(reason="a is not installed: pip install a"), b=Backend())
    with pytest.raises(ValueError, match="a is not installed: pip install a"):
        choose_backend("a", CALL)
    with pytest.raises(ValueError, match="backend must be one of auto, a, b, got 'c'"):
        choose_backend("c", CALL)


@pytest.mark.parametrize(
    "run, fault",
    [
        (dense, "relative error of its output"),
        (attends_to_padding, "relative error of its output"),
        (
            half_precision_logits,
            "with large logits, heads first in memory, its output is not finite",
        ),
        (lambda q, *rest: (q[:, :-1], None), "its output is"),
        (fails(RuntimeError("no nvcc")), "RuntimeError: no nvcc"),
    ],
)
def test_one_that_fails_its_proof_never_touches_a_call(install, monkeypatch, caplog, run, fault):
    monkeypatch.setattr(proof, "LAYOUT", PROOF)
    made = install(a=Backend(run), b=Backend())
    with caplog.at_level(logging.INFO, "radial_attention"):
        for _ in range(3):
            assert attend(*draw(), PLAN)[2] == "b"
    assert made["a"].calls <= 2  # of the proof
    said = [r.getMessage() for r in caplog.records if "Backend a" in r.getMessage()]
    assert len(said) == 1 and fault in said[0]
    assert fault in why_not("a", CALL)


def test_a_proof_runs_once_for_a_kind_of_call(install):
    made = install(a=Backend())
    for _ in range(3):
        attend(*draw(), PLAN)
    assert made["a"].calls == 2 + 3  # plain and with large logits, then the calls


@pytest.mark.parametrize("backend", ["auto", "a"])
def test_one_that_fails_later_hands_over_to_the_next_for_good(install, caplog, backend):
    made = install(a=Backend(), b=Backend(reason="not here"), c=Backend())
    attend(*draw(), PLAN, backend)
    made["a"]._run = fails(RuntimeError("illegal instruction"))
    with caplog.at_level(logging.WARNING, "radial_attention"):
        names = [attend(*draw(), PLAN, backend)[2] for _ in range(3)]
    assert names == ["c", "c", "c"]
    assert len([r for r in caplog.records if "illegal instruction" in r.getMessage()]) == 1


def test_a_named_one_that_failed_hands_over_at_another_size_too(install):
    made = install(a=Backend(), b=Backend())
    attend(*draw(), PLAN, "a")
    made["a"]._run = fails(RuntimeError("illegal instruction"))
    attend(*draw(), PLAN, "a")
    layout = VideoLayout(5, 9, 15)
    q, k, v = torch.randn(3, 1, layout.tokens, 2, 16).unbind(0)
    assert attend(q, k, v, make_plan(PLAN.mask, layout), "a")[2] == "b"
    with pytest.raises(ValueError, match="a failed: RuntimeError: illegal instruction"):
        choose_backend("a", CALL)  # the node asks so, before sampling


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("workspace"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda e: type(e).__name__)
def test_one_that_is_out_of_memory_is_asked_again(install, caplog, error):
    made = install(a=Backend(), b=Backend())
    attend(*draw(), PLAN)
    made["a"]._run = fails(error)
    with caplog.at_level(logging.WARNING, "radial_attention"):
        assert [attend(*draw(), PLAN)[2] for _ in range(3)] == ["b"] * 3
    assert len(caplog.records) == 1
    made["a"]._run = oracle.run
    assert attend(*draw(), PLAN)[2] == "a"


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda e: type(e).__name__)
def test_a_proof_without_memory_proves_nothing(install, error):
    made = install(a=Backend(fails(error)), b=Backend())
    assert attend(*draw(), PLAN)[2] == "b"
    made["a"]._run = oracle.run
    assert attend(*draw(), PLAN)[2] == "a"


def test_a_proof_that_never_has_memory_is_not_tried_for_ever(install):
    made = install(a=Backend(fails(OUT_OF_MEMORY[0])), b=Backend())
    assert [attend(*draw(), PLAN)[2] for _ in range(9)] == ["b"] * 9
    assert made["a"].calls == proof.MOST_TRIES


def test_a_failed_backend_leaves_no_tensors_behind(install):
    big = []

    def fails_late(q, *rest):
        workspace = torch.zeros(1000)
        big.append(weakref.ref(workspace))
        raise RuntimeError("late")

    def looks(*arguments):
        assert big[-1]() is None
        return oracle.run(*arguments)

    made = install(a=Backend(), b=Backend(looks))
    attend(*draw(), PLAN)
    big.clear()
    made["a"]._run, made["b"]._run = fails_late, oracle.run
    assert why_not("b", CALL) is None
    made["b"]._run = looks
    assert attend(*draw(), PLAN)[2] == "b"


def test_another_packs_stub_of_a_library_is_only_a_reason(install):
    made = install(a=Backend(), b=Backend())

    def stub(call):
        raise ValueError("flash_attn.__spec__ is None")

    made["a"].why_not = stub
    assert attend(*draw(), PLAN)[2] == "b"
    assert "flash_attn.__spec__ is None" in why_not("a", CALL)


def test_when_all_fail_the_last_error_is_raised(install):
    made = install(a=Backend(), b=Backend())
    attend(*draw(), PLAN)
    attend(*draw(), PLAN, "b")
    for name in "ab":
        made[name]._run = fails(RuntimeError(f"{name} broke"))
    with pytest.raises(RuntimeError, match="b broke"):
        attend(*draw(), PLAN)


def test_gradients_and_lse_are_proven_too(install):
    def no_gradient(q, k, v, *rest):
        return oracle.run(q, k.detach(), v, *rest)

    def base_2(q, *rest):
        out, lse = oracle.run(q, *rest)
        return out, None if lse is None else lse / torch.log(torch.tensor(2.0))

    install(a=Backend(no_gradient), b=Backend(base_2), c=Backend())
    assert attend(*draw(), PLAN)[2] == "a"
    assert attend(*draw(requires_grad=True), PLAN)[2] == "b"
    assert attend(*draw(), PLAN, return_lse=True)[2] == "a"
    assert "relative error of its lse" in why_not("b", Call(CPU, torch.float32, 16, 64, lse=True))


@pytest.mark.parametrize(
    "call", [Call(CPU, torch.bfloat16, 16, 64), Call(CPU, torch.float32, 40, 128)]
)
def test_a_proof_is_of_the_kind_of_call_at_hand(install, call):
    seen = []

    def watched(q, k, v, plan, *rest):
        seen.extend((x.dtype, x.shape[3], plan.block_size) for x in (q, k, v))
        return oracle.run(q, k, v, plan, *rest)

    install(a=Backend(watched))
    assert why_not("a", call) is None
    assert set(seen) == {(call.dtype, call.head_dim, call.block_size)}


def test_a_proof_leaves_the_random_numbers_of_the_user_alone(install):
    install(a=Backend())
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    assert why_not("a", CALL) is None
    assert torch.equal(torch.rand(3), expected)


def test_a_proof_works_in_inference_mode_with_gradients(install):
    install(a=Backend())
    with torch.inference_mode():
        assert why_not("a", Call(CPU, torch.float32, 16, 64, grad=True)) is None


RESULTS = Path(__file__).parents[2] / "benchmarks/results"
MEASURED = {
    gpu: json.loads((RESULTS / f"attention-{gpu}.json").read_text())["cases"]
    for gpu in ("h100", "h200")
}
EACH = [
    pytest.param(case, gpu == "h200", id=f"{gpu}, {case['name']}")
    for gpu, cases in MEASURED.items()
    for case in cases
]


@pytest.mark.parametrize("case, approximate", EACH)
def test_the_rankings_on_hopper_are_those_of_the_measurements(monkeypatch, case, approximate):
    monkeypatch.setattr(rankings, "capability", lambda device: (9, 0))
    ms = {row["backend"]: row["ms"] for row in case["rows"]}
    names = ranking(CALL, case["tokens"], approximate)
    ranked = [ms[name] for name in names if name in ms]
    dense = [ms[f"dense-{n}"] for n in dense_ranking(CALL, approximate) if f"dense-{n}" in ms]
    assert len(ranked) >= (1 if approximate else 5)
    for measured in (ranked, dense):
        assert all(fast < 1.1 * slow for fast, slow in pairwise(measured))


@pytest.mark.parametrize("gpu", [(0, 0), (7, 5), (8, 6), (9, 0), (10, 0), (12, 0)], ids=str)
@pytest.mark.parametrize("tokens", [1000, 1_000_000])
@pytest.mark.parametrize("approximate", [False, True])
def test_every_ranking_ends_with_what_runs_anywhere(monkeypatch, gpu, tokens, approximate):
    monkeypatch.setattr(rankings, "capability", lambda device: gpu)
    names = ranking(CALL, tokens, approximate)
    assert names[-1] == "sdpa" and len(names) == len(set(names))
    assert set(names) <= set(BACKENDS) - {"reference"}
    assert approximate or all(backend_module(name).ACCURACY.exact for name in names)
    assert all(hasattr(backend_module(name), "dense") for name in dense_ranking(CALL, approximate))


@pytest.mark.parametrize(
    "gpu, sparse, dense",
    [
        ((9, 0), ["triton_int8", "triton", "flash_attention"], ["triton_int8", "flash_attention"]),
        ((8, 6), ["spargeattn", "triton_int8", "triton"], ["sageattention", "triton_int8"]),
        ((8, 9), ["spargeattn", "triton_int8", "triton"], ["sageattention", "triton_int8"]),
        ((12, 0), ["triton_int8", "spargeattn", "triton"], ["triton_int8", "sageattention"]),
    ],
    ids=str,
)
def test_where_people_have_8_bit_libraries(monkeypatch, gpu, sparse, dense):
    monkeypatch.setattr(rankings, "capability", lambda device: gpu)
    assert list(ranking(CALL, 100_000, approximate=True)[:3]) == sparse
    assert list(dense_ranking(CALL, approximate=True))[:2] == dense
    exact = ("flash_attention",) if gpu == (9, 0) else ()
    assert ranking(CALL, 100_000)[0] == "triton" and dense_ranking(CALL)[:1] == exact


def test_on_hopper_short_radial_calls_stay_exact(monkeypatch):
    monkeypatch.setattr(rankings, "capability", lambda device: (9, 0))
    for tokens, eight_bits in ((49_999, False), (50_000, True)):
        assert ("triton_int8" in ranking(CALL, tokens, approximate=True)) == eight_bits


def test_capability_of_a_cpu():
    assert capability(CPU) == (0, 0)
