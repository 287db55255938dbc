"""The machine code of our 8-bit kernels for the cards that we don't have: what makes it fast."""

import json
from pathlib import Path

import pytest
from compiling import output_of

PART = 64  # keys whose scores are one product
REGISTERS = 65_536  # of a multiprocessor
# Bytes of its shared memory, of which each program takes some more than it asks for.
SHARED = {80: 164 * 1024, 86: 100 * 1024, 89: 100 * 1024, 120: 100 * 1024}
RESERVED = 1024
CAPABILITIES = sorted(SHARED)


@pytest.fixture(scope="module")
def compiled():
    """What compile_int8.py says of each kernel."""
    backends = pytest.importorskip("triton.backends")
    if not (Path(backends.__file__).parent / "nvidia/bin/ptxas").exists():
        pytest.skip("this Triton brings no assembler")
    return [json.loads(line) for line in output_of("compile_int8.py").splitlines()]


@pytest.fixture(params=CAPABILITIES)
def attends(compiled, request):
    """The kernels of attention for one card."""
    found = [
        each
        for each in compiled
        if each["kernel"] == "attend" and each["capability"] == request.param
    ]
    assert len(found) >= 4
    return found


def count(instructions: dict[str, int], *names: str) -> int:
    """How many there are of these, by the first word of their names."""
    return sum(n for name, n in instructions.items() if name.split(".")[0] in names)


def parts(kernel) -> int:
    return kernel["tiles"][1] // PART


def rows(kernel) -> int:
    """Of a warp, 16 by 16."""
    block_m, _, warps, _ = kernel["tiles"]
    return block_m // warps // 16


def test_all_products_are_of_8_bits_and_there_are_no_more_than_needed(attends):
    """One is of 16 rows, 8 columns and 32 of what is summed up."""
    for kernel in attends:
        scores, of_v = PART // 8 * (kernel["head_dim"] // 32), kernel["head_dim"] // 8 * 2
        products = [rows(kernel) * parts(kernel) * (scores + of_v + ones) for ones in (2, 4)]
        assert count(kernel["loop"], "IMMA") in products, kernel
        assert not [name for name in kernel["instructions"] if "MMA" in name and name[0] != "I"]


def test_nothing_moves_between_threads_but_what_a_row_needs(attends):
    """The weights of one product are where the next one takes them."""
    for kernel in attends:
        assert count(kernel["loop"], "STS", "STSM") == 0, kernel
        assert count(kernel["loop"], "SHFL") == 4 * rows(kernel) * parts(kernel), kernel


def test_numbers_become_others_without_conversions(attends):
    for kernel in attends:
        assert count(kernel["loop"], "I2F", "F2I", "I2FP", "F2F", "F2FP", "I2I") == 0, kernel


def test_the_work_around_the_products_is_small(attends):
    """For each score one addition to round it, one exponential, and multiply-adds that are one
    instruction: one for it, and two for each element of the output, of which one is a step's."""
    for kernel in attends:
        scores, loop = 16 * PART // 32 * rows(kernel) * parts(kernel), kernel["loop"]
        output = 16 * (kernel["head_dim"] + 16) // 32 * rows(kernel)
        assert count(loop, "MUFU") <= scores + 8 * rows(kernel), kernel
        assert count(loop, "FFMA") <= scores + output * (1 + parts(kernel)) + 16, kernel
        assert count(loop, "FADD", "FMUL") <= 1.5 * scores, kernel
        if kernel["head_dim"] == 128:
            assert sum(loop.values()) <= 8 * count(loop, "IMMA"), kernel


def test_all_stays_in_registers(attends):
    for kernel in attends:
        kept_elsewhere = count(kernel["loop"], "LDL", "STL")
        assert kept_elsewhere <= 0.03 * sum(kernel["loop"].values()), kernel


def test_eight_warps_fit_a_multiprocessor(attends):
    for kernel in attends:
        warps = kernel["tiles"][2]
        registers = -(-kernel["registers"] // 8) * 8 * 32 * warps
        shared = kernel["shared"] + RESERVED
        programs = min(REGISTERS // registers, SHARED[kernel["capability"]] // shared)
        assert programs * warps >= 8, kernel


def test_k_and_v_are_loaded_ahead(attends):
    """Straight to shared memory, past the registers, and all of them so."""
    for kernel in attends:
        _, keys, warps, _ = kernel["tiles"]
        wide = {128: 16, 64: 8}  # bits in a name, bytes of a thread
        copied = sum(
            n * size
            for name, n in kernel["loop"].items()
            for bits, size in wide.items()
            if name.startswith("LDGSTS") and name.endswith(f".{bits}")
        )
        assert 32 * warps * copied == 2 * keys * kernel["head_dim"], kernel
        assert count(kernel["loop"], "LDG") <= 1, kernel  # the next block's number


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_quantizing_keeps_all_in_registers_and_rotates_by_tensor_instructions(compiled, capability):
    found = [
        each
        for each in compiled
        if each["kernel"] == "quantize" and each["capability"] == capability
    ]
    assert [each["head_dim"] for each in found] == [128, 64]
    for kernel in found:
        half, used = kernel["head_dim"] // 2, kernel["instructions"]
        assert kernel["stack"] == 0 and count(used, "LDL", "STL") == 0, kernel
        # Two halves of q and of k: products of 16 rows, 8 columns and 16 of what is summed up.
        assert count(used, "HMMA") == 4 * (half // 8) * (half // 16), kernel
        assert count(used, "FFMA") <= 2 * 16 * kernel["head_dim"] * 3 // 32, kernel
        assert all(name.endswith(".128") for name in used if name.startswith("STG.E.")), kernel
