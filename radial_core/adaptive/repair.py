"""The residual repair: adaptive lists drop key blocks, and what that takes from the output is
estimated from a few rows that are computed in full.

In each head, the part of the dense output that a row lacks is taken to be a linear function of its
sparse output: R = O S, with a d x d matrix S. Some query tokens, spread over the video, show both R
and O, and S is the ridge regression of the one on the other. SparsePR (arXiv 2608.18484) does this
with standardized outputs and a few directions of R. In the quality lab (benchmarks/quality) neither
the mean nor the directions change anything, so they are left out. Each channel's penalty is a share
of its own square, as if the outputs were scaled: some models have channels far larger than others.

It needs nothing of how the sparse output was computed, so it stands behind every backend.
"""

import math
from functools import lru_cache

import torch

from ..backends import triton
from ..call import Call
from ..dense_rows import dense_rows
from ..layout import VideoLayout
from ..plan import PLANS_KEPT
from .proven import by_kernel

# Computed in full, for each head. Half as many are 1 dB worse in the lab, twice as many no better.
ROWS = 128
RIDGE = 0.1  # a channel's penalty, as a share of its square
GOLDEN = (math.sqrt(5) - 1) / 2
KERNEL = "repair"
PROOF_SHAPE = (2, 150, 3)  # videos, tokens and heads


def repair(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    video: slice,
    softmax_scale: float | None = None,
) -> None:
    """Add to the output of sparse attention an estimate of what it lacks, in place.

    q, k, v, out: (b, s, h, d). video: the tokens whose outputs lack something, see `repaired`.
    softmax_scale: d ** -0.5 if None. Without gradients.
    """
    if video.start >= video.stop:
        return
    rows = exact_rows(video.start, video.stop, out.device)
    scale = q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
    dense = dense_rows(q[:, rows], k, v, scale)
    add_product(out[:, video], fitted(out[:, rows].transpose(1, 2), dense.transpose(1, 2)))


def repaired(layout: VideoLayout, block_size: int) -> slice:
    """The tokens whose outputs may lack something: those in blocks that have no text.

    In a block with text all queries keep everything, those of the video too.
    """
    begin, end = (block * block_size for block in layout.blocks_without_text(block_size))
    return slice(begin, min(end, layout.tokens))


@lru_cache(maxsize=PLANS_KEPT)
def exact_rows(start: int, stop: int, device: torch.device, rows: int = ROWS) -> torch.Tensor:
    """One token in each of so many equal runs of these, int64 (rows,); all, if they are fewer.

    Not at the same place in each run: a frame may have a whole number of runs, and then all frames
    would have them in the same columns.
    """
    tokens = stop - start
    count = min(rows, tokens)
    with torch.inference_mode(False):
        run = torch.arange(count, dtype=torch.float64)
        chosen = ((run + run * GOLDEN % 1) * (tokens / count)).long()
        return (start + chosen).to(device)


def fitted(sparse: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
    """The matrix of each head, (b, h, d, d) in the dtype of the outputs, (b, h, rows, d) each.

    Computed in float32, or float64 if they are that. 0 where there is none, as for outputs that are
    not finite. Nothing waits for the device.
    """
    dtype = torch.promote_types(sparse.dtype, torch.float32)
    found = sparse.to(dtype)
    lacks = dense.to(dtype) - found
    with torch.autocast(sparse.device.type, enabled=False):  # for which a GPU has no Cholesky
        gram = found.mT @ found
        squares = gram.diagonal(dim1=-2, dim2=-1)
        squares += RIDGE * squares + torch.finfo(gram.dtype).tiny
        root, failed = torch.linalg.cholesky_ex(gram)
        half = torch.linalg.solve_triangular(root, found.mT @ lacks, upper=False)
        matrix = torch.linalg.solve_triangular(root.mT, half, upper=True).to(sparse.dtype)
    good = matrix.isfinite().all(dim=(-2, -1)) & (failed == 0)
    return torch.where(good[..., None, None], matrix, 0.0)


def add_product(out: torch.Tensor, matrices: torch.Tensor) -> None:
    """out += out @ matrices, in place. out: (b, s, h, d). matrices: (b, h, d, d), of its dtype."""
    call = Call(out.device, out.dtype, out.shape[-1], block_size=64)
    run = lambda: _kernel(out, matrices)  # noqa: E731
    if by_kernel(KERNEL, call, _why_not_kernel, _fault, run) is None:
        _by_torch(out, matrices)


def _by_torch(out: torch.Tensor, matrices: torch.Tensor) -> None:
    """One head after another: of a long video, all of them take as much memory as its output."""
    for head, matrix in enumerate(matrices.unbind(dim=1)):
        part = out[:, :, head]
        part += part @ matrix


def _why_not_kernel(call: Call) -> str | None:
    return triton.why_not_ours(KERNEL, triton.HEAD_DIMS, call)


def _kernel(out: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    from ..kernels import repair_launch

    repair_launch.run(out, matrices)
    return out


def _fault(call: Call) -> str | None:
    """What is wrong with the kernel's result on a small case."""
    random = torch.Generator().manual_seed(0)  # not the user's
    videos, tokens, heads = PROOF_SHAPE
    shapes = (videos, tokens, heads, call.head_dim), (videos, heads, call.head_dim, call.head_dim)
    out, matrices = (torch.randn(shape, generator=random).to(call.dtype) for shape in shapes)
    matrices = matrices / call.head_dim
    true = out.double() + torch.einsum("bshd,bhde->bshe", out.double(), matrices.double())
    ours = _kernel(out.to(call.device), matrices.to(call.device)).cpu().double()
    error = ((ours - true).norm() / true.norm()).item()
    bar = 2 * torch.finfo(call.dtype).eps
    return None if error < bar else f"its error is {error:.2g}, more than {bar:.2g}"
