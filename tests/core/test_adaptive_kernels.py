"""The kernels of the adaptive lists without a GPU: in Triton's interpreter, and compiled."""

import json
import logging

import pytest
import torch
from compiling import output_of

from radial_core import failures
from radial_core.adaptive import bits, mass, proven, repair
from radial_core.adaptive.bits import packed, unpacked_indices
from radial_core.adaptive.mass import block_mass, by_torch
from radial_core.call import Call

pytest.importorskip("triton")
from radial_core.kernels import block_mass_launch, repair_launch, unpack_launch  # noqa: E402
from radial_core.kernels.portable_launch import Tiles  # noqa: E402

CPU, HALF = torch.device("cpu"), torch.float16  # the interpreter gets bfloat16 wrong
PROOF_BLOCKS = mass.PROOF_BLOCKS


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """No verdicts or failures of other tests, and a small case for the proof of the mass."""
    print(f"torch.manual_seed({torch.seed()})")  # shown if a test fails
    monkeypatch.setattr(proven, "_verdicts", {})
    for name in ("_reasons", "_failed_runs", "_logged"):
        monkeypatch.setattr(failures, name, type(getattr(failures, name))())
    monkeypatch.setattr(mass, "PROOF_BLOCKS", 3)


def draw(tokens, heads, head_dim):
    q, k = torch.randn(2, tokens, heads, head_dim).unbind(0)
    return (3 * q).to(HALF), k.to(HALF)


def error_of(ours, queries, k, *rest):
    true = by_torch(queries.float(), k.float(), *rest)
    assert ours.shape == true.shape and ours.dtype == torch.float32
    return (ours - true).abs().max().item()


@pytest.mark.parametrize(
    "tokens, heads, head_dim, block_size, tiles",
    [
        (64 * 3, 2, 64, 64, None),
        (64 * 34 - 1, 1, 64, 64, Tiles(128, 128, 4, 2)),  # two programs for each row of blocks
        (77, 1, 80, 64, Tiles(64, 64, 4, 2)),
        (5, 2, 96, 64, Tiles(64, 64, 4, 2)),  # one block
        (300, 1, 128, 128, Tiles(128, 64, 4, 2)),  # blocks in two steps, the last one without keys
    ],
)
def test_the_mass_kernel_equals_torch(tokens, heads, head_dim, block_size, tiles):
    q, k = draw(tokens, heads, head_dim)
    queries = q[mass.asked(tokens, block_size, CPU)]
    rest = (block_size // 4, block_size, head_dim**-0.5)
    ours = block_mass_launch.run(queries, k, *rest, *([tiles] if tiles else []))
    assert error_of(ours, queries, k, *rest) < 1e-5


@pytest.mark.parametrize(
    "change",
    [
        lambda k: torch.stack([k, k.flip(0)], dim=1)[:, 0],
        lambda k: k.transpose(0, 1).contiguous().transpose(0, 1),
        lambda k: k.transpose(1, 2).contiguous().transpose(1, 2),  # head_dim is not contiguous
    ],
    ids=["a part of a buffer", "heads first", "head_dim first"],
)
def test_the_mass_kernel_takes_strides(change):
    q, k = draw(100, 3, 64)
    queries, rest = q[mass.asked(100, 64, CPU)], (16, 64, 0.125)
    assert not (moved := change(k)).is_contiguous() and torch.equal(moved, k)
    assert error_of(block_mass_launch.run(queries, moved, *rest), queries, k, *rest) < 1e-5


@pytest.mark.parametrize("at_once", [1, 16 * 4 * 3, 16 * 4 * 4 * 2])
def test_the_mass_kernel_takes_rows_and_heads_in_turn(monkeypatch, at_once):
    monkeypatch.setattr(block_mass_launch, "LOGARITHMS_AT_ONCE", at_once)
    q, k = draw(64 * 3 + 9, 3, 64)
    queries, rest = q[mass.asked(len(k), 64, CPU)], (16, 64, 0.125)
    assert error_of(block_mass_launch.run(queries, k, *rest), queries, k, *rest) < 1e-5


def test_large_logits_stay_finite():
    q, k = draw(100, 1, 64)
    queries = 100 * q[mass.asked(100, 64, CPU)]
    ours = block_mass_launch.run(queries, k, 16, 64, 0.125)
    assert torch.allclose(ours.sum(dim=-1), torch.ones(1, 2))


@pytest.mark.parametrize("shape", [(1, 1), (3, 64), (2, 1100)], ids=str)
def test_the_unpacking_kernel_finds_every_bit(shape):
    heads, blocks = shape
    kept = torch.rand(heads, blocks, blocks) < torch.rand(heads, blocks, 1)
    kept[0, 0] = False
    lengths = kept.sum(dim=-1).flatten()
    indptr = torch.zeros(heads * blocks + 1, dtype=torch.int32)
    indptr[1:] = lengths.cumsum(0)
    indptr = indptr.unfold(0, blocks + 1, blocks)
    some = torch.tensor([0, blocks // 2, blocks - 1]).unique()
    if blocks > 100:  # a few rows of the interpreter's many
        kept = kept[:, some]
        lengths = kept.sum(dim=-1)
        ends = lengths.flatten().cumsum(0).view_as(lengths)
        indptr = torch.cat([ends[:, :1] - lengths[:, :1], ends], dim=1).int()
    found = unpack_launch.run(packed(kept), indptr, int(kept.sum()))
    assert found.dtype == torch.int32
    assert torch.equal(found, kept.nonzero()[:, -1].int())


def outputs(batch, tokens, heads, head_dim):
    """An output and the matrices for it, small enough for one tolerance."""
    out = torch.randn(batch, tokens, heads, head_dim) / 4
    return out.to(HALF), (torch.randn(batch, heads, head_dim, head_dim) / head_dim).to(HALF)


@pytest.mark.parametrize("shape", [(2, 300, 3, 64), (1, 128, 2, 80), (1, 5, 1, 128)], ids=str)
def test_the_repair_kernel_equals_torch(shape):
    out, matrices = outputs(*shape)
    before, part = out.clone(), out[:, 1:]
    repair_launch.run(part, matrices)
    true = before.double() + torch.einsum("bshd,bhde->bshe", before.double(), matrices.double())
    assert torch.equal(out[:, :1], before[:, :1])
    assert (part - true[:, 1:]).norm() < 2 * torch.finfo(HALF).eps * true.norm()


def test_the_repair_kernel_takes_heads_first():
    out, matrices = outputs(1, 150, 3, 64)
    moved = out.transpose(1, 2).contiguous().transpose(1, 2)
    repair_launch.run(out, matrices)
    repair_launch.run(moved, matrices)
    assert torch.equal(moved, out)


@pytest.fixture
def on_cpu(monkeypatch):
    """Our kernels take calls here, in the interpreter."""
    monkeypatch.setattr("radial_core.backends.triton.why_not_ours", lambda *arguments: None)


def mass_call():
    q, k = draw(100, 1, 64)
    return (lambda: block_mass(q, k, 64)), by_torch(q[mass.asked(100, 64, CPU)], k, 16, 64, 0.125)


def bits_call():
    kept = torch.eye(5, dtype=torch.bool)[None]
    indptr = torch.arange(6, dtype=torch.int32)[None]
    return (lambda: unpacked_indices(packed(kept), indptr, 5)), torch.arange(5, dtype=torch.int32)


def repair_call():
    out, matrices = outputs(1, 150, 2, 64)
    expected = out.clone()
    repair._by_torch(expected, matrices)

    def run():
        repaired = out.clone()
        repair.add_product(repaired, matrices)
        return repaired

    return run, expected


KERNELS = {mass: mass_call, bits: bits_call, repair: repair_call}


@pytest.mark.parametrize("module", KERNELS, ids=lambda m: m.KERNEL)
def test_a_kernel_proves_itself_once_and_runs(monkeypatch, on_cpu, caplog, module):
    caplog.set_level(logging.INFO)
    run, expected = KERNELS[module]()
    kernel, runs = module._kernel, []
    monkeypatch.setattr(module, "_kernel", lambda *given: runs.append(1) or kernel(*given))
    state = torch.get_rng_state()
    with torch.inference_mode():
        for _ in range(2):
            torch.testing.assert_close(run(), expected, atol=2e-3, rtol=0)
    assert torch.equal(state, torch.get_rng_state())
    assert len(runs) == 3 and caplog.text.count(f"Kernel {module.KERNEL} is exact") == 1


@pytest.mark.parametrize("module", KERNELS, ids=lambda m: m.KERNEL)
def test_a_wrong_kernel_is_not_used_and_the_log_says_so_once(monkeypatch, on_cpu, caplog, module):
    run, expected = KERNELS[module]()
    kernel, runs = module._kernel, []
    monkeypatch.setattr(module, "_kernel", lambda *given: runs.append(1) or kernel(*given).flip(-1))
    for _ in range(2):
        assert torch.equal(run(), expected)
    assert len(runs) == 1 and len(caplog.records) == 1
    assert f"Kernel {module.KERNEL} is not used on cpu" in caplog.text


@pytest.mark.parametrize("module", KERNELS, ids=lambda m: m.KERNEL)
def test_a_kernel_that_fails_is_off_until_the_next_run(monkeypatch, on_cpu, caplog, module):
    run, expected = KERNELS[module]()
    errors = [torch.OutOfMemoryError("out of memory"), RuntimeError("broken")]

    def broken(*given):
        raise errors.pop(0)

    kernel = module._kernel
    monkeypatch.setattr(module, "_kernel", broken)
    for _ in range(3):
        assert torch.equal(run(), expected)
    assert not errors and len(caplog.records) == 2
    failures.next_run()
    monkeypatch.setattr(module, "_kernel", kernel)
    torch.testing.assert_close(run(), expected, atol=2e-3, rtol=0)
    assert list(proven._verdicts.values()) == [True]


def test_the_mass_kernel_needs_blocks_of_a_power_of_two(on_cpu):
    assert "no power of two" in mass._why_not_kernel(Call(CPU, HALF, 64, 96))


def test_the_proofs_take_more_than_one_program_and_step():
    assert PROOF_BLOCKS > block_mass_launch.KEY_BLOCKS
    assert 8 * bits.PROOF_SHAPE[-1] > unpack_launch.COLUMNS


def test_they_compile_for_every_gpu_and_keep_all_in_registers():
    found = [json.loads(line) for line in output_of("compile_adaptive.py").splitlines()]
    assert {80, 90, 120} <= {kernel["architecture"] for kernel in found}
    for kernel in found:
        assert kernel["scratch"] == 0, kernel
        assert kernel["shared"] <= (115_000 if kernel["architecture"] == 90 else 67_000), kernel
        assert (kernel["products"] > 0) == (kernel["kernel"] in ("log_sums", "repair")), kernel
