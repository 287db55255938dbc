"""What a mask does to a real attention call: the attention mass it keeps, and its output's error.

Also what adaptive lists do that are chosen in that very call, with the repair of their output.

Exact for a sample of the rows: from a row's softmax over all keys follows the output of any mask.
Keys come in chunks, whose unnormalised weights and values are summed block by block. A mask is then
a choice of blocks, and all masks cost one pass over the keys and some small products.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import pad

from .adaptive.sample import ListSample, repair_by_halves
from .layout import VideoLayout
from .masks.mask import kept_runs
from .masks.radial import RadialPattern

SCRATCH = 3 * 2**26  # bytes for a chunk of keys; with all the rest a call stays below 256 MiB
ROWS_AT_ONCE = 256  # of the block map: bounds the memory that `choose_rows` takes on the CPU


@dataclass(frozen=True, eq=False)
class QueryRows:
    """Queries of a call to measure, and the key blocks that each pattern keeps for them.

    tokens: int64 (rows,), ascending, places in the whole sequence. kept: bool (rows, patterns,
    key blocks). densities: kept share of the whole block map, for each pattern.
    """

    layout: VideoLayout
    block_size: int
    tokens: torch.Tensor
    kept: torch.Tensor
    densities: tuple[float, ...]

    def to(self, device: torch.device) -> "QueryRows":
        tokens, kept = self.tokens.to(device), self.kept.to(device)
        return QueryRows(self.layout, self.block_size, tokens, kept, self.densities)


@dataclass(frozen=True)
class CallMeasurement:
    """What was measured in one call. All but the last have a number for each pattern, and after
    these for adaptive lists at each budget, if they were measured.

    error: relative RMS error of the masked output against the dense one, over all rows and heads;
    of adaptive lists that of the repaired output (adaptive/repair.py). coverage: the kept share of
    a row's attention mass, as a mean over rows and heads. worst_head, median_head: the same for the
    worst and the median head. by_distance: the share of the mass on one frame at each distance in
    time, from 0 to frames - 1, as a mean over all pairs of a row and a frame.
    """

    error: tuple[float, ...]
    coverage: tuple[float, ...]
    worst_head: tuple[float, ...]
    median_head: tuple[float, ...]
    by_distance: tuple[float, ...]


def choose_rows(layout: VideoLayout, patterns: Sequence[RadialPattern], number: int) -> QueryRows:
    """`number` tokens of the video, or all if it has fewer: one at random from each stretch.

    The same tokens each time. Raises ValueError if the patterns don't share a block size.
    """
    sizes = {pattern.block_size for pattern in patterns}
    if len(sizes) != 1:
        raise ValueError(f"patterns must share one block size, got {sorted(sizes)}")
    size = sizes.pop()
    blocks = layout.blocks(size)
    with torch.inference_mode(False):
        number = min(number, layout.video_tokens)
        edges = torch.arange(number + 1) * layout.video_tokens // number
        random = torch.rand(number, generator=torch.Generator().manual_seed(0))
        tokens = layout.prefix + edges[:-1] + (random * edges.diff()).long()
        kept = torch.zeros(number, len(patterns), blocks, dtype=torch.bool)
        densities = []
        for i, pattern in enumerate(patterns):
            total = 0
            for chunk in torch.arange(blocks).split(ROWS_AT_ONCE):
                first, last = kept_runs(pattern, layout, chunk)
                total += int((last - first + 1).sum())
                inside = (tokens // size >= chunk[0]) & (tokens // size <= chunk[-1])
                row = tokens[inside] // size - chunk[0]
                kept[inside, i] = _as_mask(first[row], last[row], blocks)
            densities.append(total / blocks**2)
    return QueryRows(layout, size, tokens, kept, tuple(densities))


def _as_mask(first: torch.Tensor, last: torch.Tensor, blocks: int) -> torch.Tensor:
    """Runs without overlaps, (rows, runs), as a mask (rows, blocks)."""
    steps = torch.zeros(len(first), blocks + 1, dtype=torch.int32)
    ones = torch.ones_like(first)
    steps.scatter_add_(1, first.clamp(max=blocks).long(), ones)
    steps.scatter_add_(1, (last + 1).clamp(max=blocks).long(), -ones)
    return steps[:, :-1].cumsum(dim=1) > 0


@torch.no_grad()
def measure(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    rows: QueryRows,
    softmax_scale: float | None = None,
    scratch: int = SCRATCH,
    lists: ListSample | None = None,
) -> CallMeasurement:
    """Measure a call. q, k, v: (s, h, d) with s = the layout's tokens, on the rows' device.

    Computed in float32, or float64 if the tensors are. softmax_scale: d ** -0.5 if None. scratch:
    bytes. lists: adaptive ones to measure too, for the same queries. Half of the rows are repaired
    by a fit to the other half. With fewer than 256 rows that is a fit to fewer than in a run, and
    the error is a little too large.
    """
    number, patterns, _ = rows.kept.shape
    patterns += 0 if lists is None else len(lists.budgets)
    heads, head_dim = q.shape[1:]
    scale = head_dim**-0.5 if softmax_scale is None else softmax_scale
    dtype = torch.promote_types(q.dtype, torch.float32)
    all_queries, q = q, q[rows.tokens].to(dtype) * scale

    squares = q.new_zeros(patterns + 1)  # of each pattern's difference, and of the dense output
    coverage = q.new_zeros(heads, patterns)
    by_frame = q.new_zeros(number, rows.layout.frames)
    step = _keys_at_once(scratch // dtype.itemsize, number, patterns, head_dim, rows.block_size)
    for head in range(heads):
        kept = [rows.kept]
        if lists is not None:
            kept.append(lists.kept(all_queries[:, head], k[:, head], scale))
        mass, out, frame_mass = _sums(q[:, head], k[:, head], v[:, head], rows, kept, step)
        # If all kept weights underflow, the output is 0, which is an error of 1.
        out /= mass.clamp(min=torch.finfo(dtype).tiny)[..., None]
        if lists is not None:
            repair_by_halves(out[:, -1 - len(lists.budgets) : -1], out[:, -1])
        out[:, :-1] -= out[:, -1:]
        squares += out.square().sum(dim=(0, 2))
        coverage[head] = (mass[:, :-1] / mass[:, -1:]).mean(dim=0)
        by_frame += frame_mass / mass[:, -1:]
    error = (squares[:-1] / squares[-1].clamp(min=torch.finfo(dtype).tiny)).sqrt()
    by_distance = _by_distance(by_frame / heads, rows)
    median = coverage.quantile(0.5, dim=0)
    parts = (error, coverage.mean(dim=0), coverage.amin(dim=0), median, by_distance)
    numbers = torch.cat(parts).tolist()  # one wait for the GPU
    return CallMeasurement(
        *(tuple(numbers[i * patterns : (i + 1) * patterns]) for i in range(4)),
        tuple(numbers[4 * patterns :]),
    )


def _sums(q, k, v, rows: QueryRows, kept: Sequence[torch.Tensor], step: int):
    """Sums over all keys, relative to each row's largest score: see the top of this file.

    q: (rows, d), times the scale. k, v: (s, d). kept: bool (rows, some patterns, key blocks) each.
    step: keys at once, whole blocks. Returns, for each pattern and at the end for one that keeps
    everything, the kept mass (rows, patterns + 1) and the kept values (rows, patterns + 1, d); and
    the mass on each frame (rows, frames).
    """
    size, layout = rows.block_size, rows.layout
    number, patterns = len(q), sum(each.shape[1] for each in kept) + 1
    largest = q.new_full((number, 1), -torch.inf)
    mass, out = q.new_zeros(number, patterns), q.new_zeros(number, patterns, q.shape[1])
    by_frame = q.new_zeros(number, layout.frames)
    for start in range(0, layout.tokens, step):
        stop = min(start + step, layout.tokens)
        scores = q @ k[start:stop].to(q.dtype).T
        before, largest = largest, torch.maximum(largest, scores.amax(dim=1, keepdim=True))
        weights = scores.sub_(largest).exp_()
        shrink = (before - largest).exp()
        by_frame *= shrink
        for frame, keys in _frames_within(layout, start, stop):
            by_frame[:, frame] += weights[:, keys].sum(dim=1)

        fill = -(stop - start) % size  # the last block may be partly filled
        values = pad(v[start:stop].to(q.dtype), (0, 0, 0, fill)).unflatten(0, (-1, size))
        weights = pad(weights, (0, fill)).unflatten(1, (-1, size))  # (rows, blocks, size)
        of_chunk = [each[:, :, start // size : -(-stop // size)] for each in kept]
        keep = pad(torch.cat(of_chunk, dim=1).to(q.dtype), (0, 0, 0, 1), value=1.0)
        mass = mass * shrink + (keep @ weights.sum(dim=2)[:, :, None])[:, :, 0]
        block_out = weights.transpose(0, 1) @ values  # (blocks, rows, d)
        out = torch.baddbmm(out * shrink[:, :, None], keep, block_out.transpose(0, 1))
    return mass, out, by_frame


def _frames_within(layout: VideoLayout, start: int, stop: int):
    """Each frame with keys from start to stop, and the slice of these keys that is its own."""
    s = layout.tokens_per_frame
    first = max(start - layout.prefix, 0) // s
    for frame in range(first, layout.frames):
        begin = layout.prefix + frame * s
        if begin >= stop:
            return
        yield frame, slice(max(begin - start, 0), min(begin + s, stop) - start)


def _keys_at_once(numbers: int, rows: int, patterns: int, head_dim: int, block_size: int) -> int:
    """How many keys, in whole blocks, have scratch tensors of `numbers` numbers in all."""
    one_block = block_size * (2 * head_dim + 2 * rows) + 2 * rows * (head_dim + patterns + 1)
    return block_size * max(1, numbers // one_block)


def _by_distance(by_frame: torch.Tensor, rows: QueryRows) -> torch.Tensor:
    """(rows, frames) -> (frames,): means over the pairs of a row and a frame at each distance."""
    layout = rows.layout
    frames = torch.arange(layout.frames, device=by_frame.device)
    own = (rows.tokens - layout.prefix) // layout.tokens_per_frame
    distance = (own[:, None] - frames).abs().flatten()
    total = by_frame.new_zeros(layout.frames).index_add(0, distance, by_frame.flatten())
    pairs = distance.bincount(minlength=layout.frames).clamp(min=1)
    return total / pairs
