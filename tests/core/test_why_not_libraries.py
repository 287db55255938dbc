import pytest
import torch

from radial_core.backends import cudnn, flash_attention
from radial_core.call import Call
from radial_core.layout import VideoLayout
from radial_core.masks.radial import RadialPattern
from radial_core.plan import make_plan

HALF, BRAIN, FULL = torch.float16, torch.bfloat16, torch.float32
CUDA = torch.device("cuda", 0)

# (capability, dtype, head_dim, block_size, grad) -> None, or how the reason begins
FLASH = [
    ((9, 0), BRAIN, 128, 128, False, None),
    ((9, 0), HALF, 64, 64, False, None),
    ((9, 0), BRAIN, 72, 128, False, None),
    ((9, 0), BRAIN, 256, 64, False, None),
    ((9, 0), BRAIN, 136, 128, False, "flash_attention needs block_size 64"),
    ((9, 0), BRAIN, 264, 64, False, "flash_attention needs a head_dim of 8 to 256"),
    ((9, 0), BRAIN, 100, 128, False, "flash_attention needs a head_dim of 8 to 256"),
    ((9, 0), FULL, 128, 128, False, "flash_attention needs float16 or bfloat16"),
    ((9, 0), HALF, 64, 128, True, None),
    ((9, 0), BRAIN, 128, 64, True, "flash_attention has a backward for blocks of 128"),
    ((9, 0), BRAIN, 256, 64, True, "flash_attention has a backward for blocks of 128"),
    ((8, 0), BRAIN, 128, 128, False, "flash_attention needs a Hopper GPU"),
    ((10, 0), BRAIN, 128, 128, False, "flash_attention has no sparse kernel"),
    ((12, 0), BRAIN, 128, 128, False, "flash_attention needs a Hopper GPU"),
    ((0, 0), BRAIN, 128, 128, False, "flash_attention needs a Hopper GPU"),
]
FLASH_DENSE = [
    ((9, 0), BRAIN, 256, 128, False, None),
    ((10, 0), BRAIN, 128, 64, False, None),
    ((10, 3), BRAIN, 256, 64, False, None),
    ((10, 0), BRAIN, 192, 64, False, "flash_attention needs a head_dim of 8 to 128"),
    ((9, 0), BRAIN, 128, 128, True, None),
    ((8, 6), BRAIN, 128, 128, False, "flash_attention needs a GPU of compute capability 9.x"),
    ((12, 0), BRAIN, 128, 128, False, "flash_attention needs a GPU of compute capability 9.x"),
]
CUDNN = [
    ((9, 0), BRAIN, 128, 128, False, None),
    ((9, 0), HALF, 96, 64, False, None),
    ((9, 0), BRAIN, 72, 128, False, "cudnn needs head_dim 64 or 96 or 128"),
    ((9, 0), FULL, 128, 128, False, "cudnn needs float16 or bfloat16"),
    ((9, 0), BRAIN, 128, 64, True, None),
    ((10, 0), BRAIN, 128, 128, True, None),
    ((9, 0), HALF, 128, 128, True, "cudnn has a backward for bfloat16 and head_dim 128 only"),
    ((9, 0), BRAIN, 64, 128, True, "cudnn has a backward for bfloat16 and head_dim 128 only"),
    ((12, 0), BRAIN, 128, 128, True, "cudnn has no backward for this GPU"),
    ((10, 0), HALF, 64, 128, False, None),
    ((10, 3), BRAIN, 128, 64, False, None),
    ((10, 0), HALF, 128, 64, False, "cudnn needs bfloat16 for block_size 64"),
    ((11, 0), BRAIN, 64, 64, False, "cudnn needs head_dim 128"),
    ((12, 0), HALF, 128, 64, False, None),
    ((12, 0), BRAIN, 64, 128, False, "cudnn needs head_dim 128"),
    ((8, 9), BRAIN, 128, 128, False, "cudnn needs a GPU of compute capability 9.0"),
    ((0, 0), BRAIN, 128, 128, False, "cudnn needs a GPU of compute capability 9.0"),
]
ALL = [
    *((flash_attention, "why_not", *row) for row in FLASH),
    *((flash_attention, "why_not_dense", *row) for row in FLASH_DENSE),
    *((cudnn, "why_not", *row) for row in CUDNN),
]


def on_a_gpu(monkeypatch, module, capability, installed):
    monkeypatch.setattr(module, "capability", lambda device: capability)
    monkeypatch.setattr(module, "_installed", lambda: installed)


@pytest.mark.parametrize(
    "module, question, capability, dtype, head_dim, block_size, grad, beginning", ALL
)
def test_what_a_library_supports(
    monkeypatch, module, question, capability, dtype, head_dim, block_size, grad, beginning
):
    on_a_gpu(monkeypatch, module, capability, installed=True)
    reason = getattr(module, question)(Call(CUDA, dtype, head_dim, block_size, grad))
    assert reason is None if beginning is None else reason.startswith(beginning)


@pytest.mark.parametrize(
    "module, question, command",
    [
        (flash_attention, "why_not", 'pip install --pre "flash-attn-4[cu13]"'),
        (flash_attention, "why_not_dense", 'pip install --pre "flash-attn-4[cu13]"'),
        (cudnn, "why_not", "pip install nvidia-cudnn-frontend"),
    ],
)
def test_it_says_what_to_install(monkeypatch, module, question, command):
    on_a_gpu(monkeypatch, module, (9, 0), installed=False)
    assert command in getattr(module, question)(Call(CUDA, BRAIN, 128, 128))


@pytest.mark.parametrize(
    "module, package, file",
    [
        (flash_attention, "flash_attn", "cute/block_sparsity.py"),
        (cudnn, "cudnn", "block_sparse_attention/api.py"),
    ],
)
def test_an_older_package_of_the_name_is_not_imported(monkeypatch, tmp_path, module, package, file):
    find = module._installed.__wrapped__
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("raise ImportError('an undefined symbol')")
    monkeypatch.syspath_prepend(tmp_path)
    assert not find()
    (tmp_path / package / file).parent.mkdir()
    (tmp_path / package / file).touch()
    assert find()


def mask_of(counts, indices, blocks):
    """The block map of lists: counts (rows,), indices (rows, longest row)."""
    mask = torch.zeros(blocks, blocks, dtype=torch.bool)
    for row, count in enumerate(counts.tolist()):
        listed = indices[row, :count].tolist()
        assert listed == sorted(listed)
        mask[row, listed] = True
    return mask


@pytest.fixture(params=[64, 128])
def plan(request):
    layout = VideoLayout(9, 10, 15, prefix=70, suffix=31)
    return make_plan(RadialPattern(0.2, 1, request.param), layout)


def test_the_lists_for_flash_attention_hold_the_plan(plan):
    for table, mask in ((plan.table, plan.block_mask()), (plan.columns, plan.block_mask().T)):
        lists = flash_attention.block_lists(*table)
        assert all(
            x.dtype == torch.int32 and x.shape[:3] == (1, 1, plan.blocks) for x in lists.values()
        )
        assert not lists["mask_block_cnt"].any()
        kept = mask_of(lists["full_block_cnt"][0, 0], lists["full_block_idx"][0, 0], plan.blocks)
        assert torch.equal(kept, mask)


def test_the_lists_for_cudnn_hold_the_plan(plan):
    counts, indices = cudnn.block_lists(*plan.table, 2, 3)
    assert counts.dtype == indices.dtype == torch.int32
    assert counts.shape == (2, 3, plan.blocks) == indices.shape[:3]
    assert torch.equal(mask_of(counts[1, 2], indices[1, 2], plan.blocks), plan.block_mask())


def test_the_block_sizes_for_cudnn_add_up(plan):
    sizes = cudnn.block_sizes(plan)
    assert sizes.dtype == torch.int32 and sizes.shape == (plan.blocks,)
    assert sizes.sum() == plan.tokens and (sizes[:-1] == plan.block_size).all()
    assert cudnn.block_sizes(plan) is sizes
    full = make_plan(RadialPattern(0.2, 1, plan.block_size), VideoLayout(4, 8, 16))
    assert cudnn.block_sizes(full) is None


def test_cudnn_copies_only_what_its_kernels_cannot_read():
    packed = torch.zeros(2, 10, 3, 64, dtype=BRAIN)
    heads_first = torch.zeros(2, 3, 10, 64, dtype=BRAIN).transpose(1, 2)
    for x in (packed, heads_first):
        if x.data_ptr() % cudnn.ALIGNMENT == 0:
            assert cudnn._aligned(x) is x
    for x in (
        packed.new_zeros(3841)[1:].view(2, 10, 3, 64),
        packed.new_zeros(2, 10, 3, 65)[..., 1:],
    ):
        assert cudnn._aligned(x).is_contiguous() and cudnn._aligned(x).data_ptr() != x.data_ptr()
