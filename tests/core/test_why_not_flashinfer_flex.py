import types

import pytest
import torch
from torch.nn.functional import pad

from radial_core import RadialPattern, VideoLayout, make_plan
from radial_core.backends import flashinfer, flex
from radial_core.call import Call, readable

HALF, BRAIN, FULL, DOUBLE = torch.float16, torch.bfloat16, torch.float32, torch.float64
# capability, dtype, head_dim, block_size, grad -> None, or how the reason begins
FLASHINFER = [
    ((9, 0), BRAIN, 128, 128, False, None),
    ((8, 0), HALF, 64, 64, False, None),
    ((10, 0), BRAIN, 256, 64, False, None),
    ((12, 0), HALF, 128, 128, False, None),
    ((7, 5), HALF, 128, 128, False, "flashinfer needs an NVIDIA GPU"),
    ((0, 0), HALF, 128, 128, False, "flashinfer needs an NVIDIA GPU"),
    ((9, 0), FULL, 128, 128, False, "flashinfer needs float16 or bfloat16"),
    ((9, 0), BRAIN, 96, 128, False, "flashinfer needs a head_dim of"),
    ((9, 0), BRAIN, 128, 128, True, "flashinfer has no backward"),
]
FLEX = [
    ((9, 0), BRAIN, 128, 128, False, None),
    ((8, 6), FULL, 80, 64, False, None),
    ((12, 0), HALF, 16, 128, True, None),
    ((9, 0), BRAIN, 128, 64, False, None),
    ((9, 0), FULL, 128, 64, True, None),
    ((8, 0), BRAIN, 128, 64, True, None),
    ((9, 0), BRAIN, 128, 64, True, "flex has no backward for blocks of 64"),
    ((8, 0), BRAIN, 32, 64, True, "flex has no backward for blocks of 64"),
    ((7, 5), HALF, 128, 128, False, "flex needs an NVIDIA GPU"),
    ((0, 0), HALF, 128, 128, False, "flex needs an NVIDIA GPU"),
    ((9, 0), DOUBLE, 128, 128, False, "flex needs float16, bfloat16 or float32"),
    ((9, 0), BRAIN, 8, 128, False, "flex needs a head_dim from 16"),
    ((9, 0), BRAIN, 512, 128, False, "flex needs a head_dim from 16"),
]
LAYOUTS = {
    "whole blocks": VideoLayout(6, 8, 16),
    "a tail": VideoLayout(12, 9, 15),
    "text before, so some rows and columns are full": VideoLayout(12, 9, 15, prefix=77),
    "one block, partly filled": VideoLayout(2, 3, 5),
}
on_layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
on_block_sizes = pytest.mark.parametrize("block_size", [64, 128])


@pytest.mark.parametrize("row", FLASHINFER, ids=str)
def test_flashinfer_accepts(monkeypatch, row):
    monkeypatch.setattr(flashinfer, "_missing", lambda: None)
    assert_reason(monkeypatch, flashinfer, row)


@pytest.mark.parametrize("row", FLEX, ids=str)
def test_flex_accepts(monkeypatch, row):
    monkeypatch.setattr(flex, "_missing", lambda: None)
    assert_reason(monkeypatch, flex, row)


def assert_reason(monkeypatch, module, row):
    capability, dtype, head_dim, block_size, grad, expected = row
    monkeypatch.setattr(module, "capability", lambda device: capability)
    reason = module.why_not(Call(torch.device("cuda", 0), dtype, head_dim, block_size, grad))
    assert reason is None if expected is None else reason.startswith(expected)


# version, what is on PATH, environment, precompiled kernels -> None, or a part of the reason
TOOLS = ("nvcc", "c++", "ninja")
MACHINES = [
    ("0.7.2.post1", TOOLS, {}, False, None),
    ("0.8.0", ("/opt/cuda/bin/nvcc", "c++", "ninja"), {"CUDA_HOME": "/opt/cuda"}, False, None),
    ("0.7.2", ("/usr/local/cuda/bin/nvcc", "c++", "ninja"), {}, False, None),
    ("0.7.2", ("mine", "g++", "ninja"), {"FLASHINFER_NVCC": "mine", "CXX": "g++"}, False, None),
    ("0.7.2", (), {}, True, None),
    ("0.7.2", ("c++", "ninja"), {}, False, "needs nvcc on PATH"),
    ("0.7.2", TOOLS, {"CUDA_HOME": "/gone"}, False, "needs nvcc on PATH"),
    ("0.7.2", ("nvcc",), {}, False, "needs a C++ compiler, ninja on PATH"),
    ("0.6.9", TOOLS, {}, False, "too old: pip install -U flashinfer-python"),
    (None, TOOLS, {}, False, "pip install flashinfer-python"),
]


@pytest.mark.parametrize("row", MACHINES, ids=str)
def test_flashinfer_needs_its_compilers(monkeypatch, row):
    installed, on_path, environment, precompiled, expected = row

    def version(name):
        if installed is None:
            raise flashinfer.PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(flashinfer, "version", version)
    monkeypatch.setattr(flashinfer, "which", lambda name: name if name in on_path else None)
    monkeypatch.setattr(flashinfer, "find_spec", lambda name: precompiled or None)
    monkeypatch.setattr(flashinfer, "os", types.SimpleNamespace(environ=environment))
    reason = flashinfer._missing.__wrapped__()
    assert reason is None if expected is None else expected in reason


# torch, Triton, what is on PATH, environment, system -> None, or how the reason begins
FLEX_MACHINES = [
    ("2.11.0+cu130", True, ("gcc",), {}, "posix", None),
    ("2.9.1", True, ("clang",), {}, "posix", None),
    ("2.10.0", True, (), {"CC": "/opt/cc"}, "posix", None),
    ("2.10.0", True, (), {}, "nt", None),
    ("2.10.0", True, (), {}, "posix", "flex needs a C compiler"),
    ("2.8.0", True, ("gcc",), {}, "posix", "flex needs torch 2.9"),
    ("2.11.0", False, ("gcc",), {}, "posix", "flex needs Triton: pip install triton"),
    ("2.11.0", False, ("gcc",), {}, "nt", "flex needs Triton: pip install triton-windows"),
]


@pytest.mark.parametrize("row", FLEX_MACHINES, ids=str)
def test_flex_needs_triton_and_a_compiler(monkeypatch, row):
    version, triton, on_path, environment, system, expected = row
    monkeypatch.setattr(torch, "__version__", version)
    monkeypatch.setattr(flex, "find_spec", lambda name: triton or None)
    monkeypatch.setattr(flex, "which", lambda name: name if name in on_path else None)
    monkeypatch.setattr(flex, "os", types.SimpleNamespace(environ=environment, name=system))
    reason = flex._missing.__wrapped__()
    assert reason is None if expected is None else reason.startswith(expected)


@on_block_sizes
@on_layouts
def test_pages_and_row_lengths_hold_the_keys_of_each_query_block(layout, block_size):
    plan = make_plan(RadialPattern(0.1, 1, block_size), layout)
    size, lengths = flashinfer.page_size(plan), flashinfer.last_page_lengths(plan)
    x = torch.randn(plan.tokens, 2, 3).transpose(1, 2)
    page = flashinfer.pages(x, size)
    assert page.data_ptr() == x.data_ptr() and len(page) >= 1
    for p, row in enumerate(plan.block_mask()):
        kept = row.repeat_interleave(block_size)[: plan.tokens]
        assert lengths.dtype == torch.int32
        assert (int(row.sum()) - 1) * size + lengths[p] == kept.sum()
    # As the kernels do: number x stride, past the end of the view for the last page.
    whole = x.as_strided((plan.tokens // size, *page.shape[1:]), page.stride())
    assert torch.equal(whole, page)
    tail = plan.tokens % size
    last = x.as_strided((tail, *x.shape[1:]), x.stride(), len(page) * page.stride(0))
    assert torch.equal(last, x[plan.tokens - tail :])


def test_only_unreadable_tensors_are_copied():
    x = torch.zeros(2, 10, 3, 3, 64, dtype=torch.bfloat16)
    for same in (x[:, :, 0], x[:, :, 2], x[:, :, 1].transpose(1, 2)):
        assert readable(same) is same
    for other in (x[:, :, 0].transpose(2, 3), x[:, :, 0, :, 1:]):
        copy = readable(other)
        assert copy.is_contiguous() and torch.equal(copy, other)


@pytest.mark.parametrize("grad", [False, True])
@on_block_sizes
@on_layouts
def test_the_block_mask_of_flex_is_the_plan(layout, block_size, grad):
    plan = make_plan(RadialPattern(0.1, 1, block_size), layout)
    with torch.inference_mode():
        mask = flex.block_mask(plan, grad)
    assert mask is flex.block_mask(plan, grad)
    assert mask.shape[-2:] == (plan.tokens, plan.tokens)  # ends with the tail, not with its block
    assert mask.BLOCK_SIZE == (block_size, block_size)
    assert not mask.full_kv_indices.is_inference()
    assert not mask.kv_num_blocks.any() and not mask.q_num_blocks.any()
    tables = [(mask.full_kv_num_blocks, mask.full_kv_indices, plan.block_mask())]
    if grad:
        tables.append((mask.full_q_num_blocks, mask.full_q_indices, plan.block_mask().T))
    for lengths, table, expected in tables:
        assert lengths.dtype == table.dtype == torch.int32
        # to_dense() needs a table as wide as the number of blocks.
        square = pad(table, (0, plan.blocks - table.shape[-1]))
        as_kept = type(mask).from_kv_blocks(lengths, square, BLOCK_SIZE=block_size)
        assert torch.equal(as_kept.to_dense()[0, 0].bool(), expected)
        for row, length in zip(table[0, 0].tolist(), lengths[0, 0].tolist(), strict=True):
            assert row[:length] == sorted(set(row[:length]))


def test_flex_never_runs_eagerly():
    plan = make_plan(RadialPattern(0.1), LAYOUTS["a tail"])
    q = torch.randn(1, plan.tokens, 1, 16)
    torch.compiler.set_stance("force_eager")
    try:
        with pytest.raises(RuntimeError, match="needs torch.compile"):
            flex.run(q, q, q, plan, 0.25, False)
    finally:
        torch.compiler.set_stance("default")
