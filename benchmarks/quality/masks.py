"""Every mask as a block map: bool (query blocks, key blocks), true where a block is kept.

All but the radial masks take `keep`, the number of key blocks of each query block, so that any two
can be compared at one budget. They rank the key blocks of a query block and keep the first ones.
"""

from functools import cache, partial

import lab  # noqa: F401 (puts the pack's folder on the path)
import torch

from radial_core import Plan, RadialPattern, VideoLayout, make_plan

# A tile of the tile window is a block: frames, rows and columns of tokens.
TILES = {64: (4, 4, 4), 128: (4, 4, 8)}
SMALLER, SMALL_BLOCK = 8, 16  # of the masks in proportion


def radial(layout: VideoLayout, decay: float, sink_frames: int, block_size: int) -> torch.Tensor:
    """The radial rule, as in the node."""
    return make_plan(RadialPattern(decay, sink_frames, block_size), layout).block_mask()


def radial_in_proportion(layout: VideoLayout, decay: float, sink_frames: int) -> torch.Tensor:
    """The radial rule with every length an eighth: blocks of 16 tokens, bands an eighth as wide.

    So a small frame has as many blocks as a large one, and the mask keeps about as large a share.
    It is the map, in blocks of 128, of a video with 8 times as many tokens a frame.
    """
    return radial_plan_in_proportion(layout, decay, sink_frames).block_mask()


def radial_plan_in_proportion(
    layout: VideoLayout, decay: float, sink_frames: int, device: torch.device | str = "cpu"
) -> Plan:
    """The plan of `radial_in_proportion`: of the larger video, whose blocks have 128 tokens."""
    pattern = RadialPattern(decay, sink_frames, SMALL_BLOCK * SMALLER)
    return make_plan(pattern, _enlarged(layout), device)


def released(layout: VideoLayout, decay: float, sink_frames: int, block_size: int) -> torch.Tensor:
    """The map of the authors' released code, with what it loses at the edges of frames.

    It treats each pair of frames separately, on the blocks that they touch, and of a frame that
    starts inside a block it only considers the first ceil(s / block) blocks. Raises ValueError if
    the video is not whole blocks.
    """
    s, blocks = layout.tokens_per_frame, layout.tokens // block_size
    if layout.tokens % block_size:
        raise ValueError(f"the released mask needs whole blocks of {block_size}, got {layout}")
    pattern = RadialPattern(decay, sink_frames, block_size)
    tested = cache(partial(_released_test, s, block_size))  # few pairs of frames differ
    kept = torch.zeros(blocks, blocks, dtype=torch.bool)
    for i in range(layout.frames):
        for j in range(layout.frames):
            band = _band(pattern, 0 if j < sink_frames else abs(i - j), s)
            if band is None:
                continue
            row, column = divmod(i * s, block_size), divmod(j * s, block_size)
            part = tested(band, row[1], column[1])[: blocks - row[0], : blocks - column[0]]
            rows, columns = part.shape
            kept[row[0] : row[0] + rows, column[0] : column[0] + columns] |= part
    return kept


def released_in_proportion(layout: VideoLayout, decay: float, sink_frames: int) -> torch.Tensor:
    """The map of `released` with every length an eighth, as in `radial_in_proportion`."""
    return released(_enlarged(layout), decay, sink_frames, SMALL_BLOCK * SMALLER)


def sliding_window(layout: VideoLayout, keep: int, block_size: int, sink_frames=0) -> torch.Tensor:
    """The nearest blocks of the sequence."""
    block = torch.arange(layout.tokens // block_size)
    cost = (block[:, None] - block).abs()
    return _cheapest(_sink_first(cost, layout, block_size, sink_frames), keep)


def spatial(layout: VideoLayout, keep: int, block_size: int, sink_frames=0) -> torch.Tensor:
    """SVG's spatial head (arXiv 2502.01776): the nearest frames, then the nearest positions."""
    frames, places = _distances(layout, block_size)
    cost = frames * layout.tokens_per_frame + places
    return _cheapest(_sink_first(cost, layout, block_size, sink_frames), keep)


def temporal(layout: VideoLayout, keep: int, block_size: int, sink_frames=0) -> torch.Tensor:
    """SVG's temporal head: the same position in all frames, then the nearest frames."""
    frames, places = _distances(layout, block_size)
    cost = places * layout.frames + frames
    return _cheapest(_sink_first(cost, layout, block_size, sink_frames), keep)


def tile_window(layout: VideoLayout, keep: int, block_size: int) -> torch.Tensor:
    """A box of tiles around each tile, as in STA (arXiv 2502.04507), on tokens in `tile_order`.

    The nearest tiles by the largest of the three distances, each relative to the video's extent;
    among equals by the sum of squares. At an edge the box extends inwards.
    """
    counts = _tile_counts(layout, block_size)
    axes = [torch.arange(n) for n in counts]
    place = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, 2)
    apart = (place[:, None] - place).abs() / torch.tensor(counts)
    return _cheapest(apart.amax(-1) + 1e-3 * apart.square().sum(-1), keep)


def tile_order(layout: VideoLayout, block_size: int) -> torch.Tensor:
    """The tokens in an order in which those of a tile are next to each other: (tokens,).

    Raises ValueError if the video is not whole tiles.
    """
    counts, tile = _tile_counts(layout, block_size), TILES[block_size]
    token = torch.arange(layout.tokens)
    token = token.view(*(size for pair in zip(counts, tile, strict=True) for size in pair))
    return token.permute(0, 2, 4, 1, 3, 5).flatten()


def most_mass(mass: torch.Tensor, keep: int) -> torch.Tensor:
    """The key blocks with the most attention: (..., query blocks, key blocks), like `mass`."""
    return _cheapest(-mass, keep)


def block_mass(q: torch.Tensor, k: torch.Tensor, block_size: int) -> torch.Tensor:
    """The share of a query block's attention on each key block: float32 (b, h, blocks, blocks).

    q, k: (b, s, h, d), s a multiple of the block size. Rows sum to 1. Computed in the tensors'
    dtype, one batch element at a time, with memory for heads times tokens squared.
    """
    scale = q.shape[-1] ** -0.5
    found = []
    for one_q, one_k in zip(q.transpose(1, 2), k.transpose(1, 2), strict=True):
        weights = (one_q * scale @ one_k.transpose(1, 2)).softmax(dim=-1)
        by_key = weights.unflatten(-1, (-1, block_size)).sum(dim=-1, dtype=torch.float32)
        found.append(by_key.unflatten(1, (-1, block_size)).mean(dim=2))
    return torch.stack(found)


def _enlarged(layout: VideoLayout) -> VideoLayout:
    """The video with 8 times as many tokens a frame that a mask in proportion is made for."""
    return VideoLayout(layout.frames, layout.height, layout.width * SMALLER)


def _band(pattern: RadialPattern, distance: int, tokens_per_frame: int) -> int | None:
    """How far apart in its frame a token may be from one at that distance; None drops the pair."""
    reach = pattern.reach(distance, tokens_per_frame)
    if distance <= 1 or reach is None:
        return reach
    return reach - pattern.slack


def _released_test(s: int, size: int, band: int, row: int, column: int) -> torch.Tensor:
    """Which blocks the released code keeps of two frames: bool (query blocks, key blocks).

    Like `kept_blocks` of `token_mask`, but it counts the rows of each key column without the mask
    of all tokens, which takes seconds at real sizes. s: tokens a frame. row, column: the place of
    the frame's first token in its block, of queries and of keys.
    """
    considered = -(-s // size)
    key = torch.arange(considered * size, dtype=torch.int32) - column
    first = torch.arange(considered, dtype=torch.int32)[:, None] * size - row
    low, high = (key - band).clamp(min=0), (key + band + 1).clamp(max=s)
    rows = torch.minimum(high, first + size) - torch.maximum(low, first)
    rows = rows.clamp(min=0) * ((key >= 0) & (key < s))
    rows = rows.view(considered, considered, size)
    touched, dense = (rows > 0).sum(dim=-1), (3 * rows > size).sum(dim=-1)
    return 10 * dense > 6 * touched


def _cheapest(cost: torch.Tensor, keep: int) -> torch.Tensor:
    order = cost.argsort(dim=-1, stable=True)[..., :keep]
    return torch.zeros_like(cost, dtype=torch.bool).scatter_(-1, order, True)


def _sink_first(cost: torch.Tensor, layout: VideoLayout, block_size: int, sink_frames: int):
    """The cost, changed so that the blocks of the first frames rank before all others."""
    blocks = -(-sink_frames * layout.tokens_per_frame // block_size)
    cost[:, :blocks] -= int(cost.max()) + 1
    return cost


def _distances(layout: VideoLayout, block_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Distance between the first tokens of two blocks: in frames, and in position in the frame."""
    start = torch.arange(layout.tokens // block_size) * block_size
    frame, place = start // layout.tokens_per_frame, start % layout.tokens_per_frame
    return (frame[:, None] - frame).abs(), (place[:, None] - place).abs()


def _tile_counts(layout: VideoLayout, block_size: int) -> tuple[int, int, int]:
    tile, grid = TILES[block_size], (layout.frames, layout.height, layout.width)
    if any(size % side for size, side in zip(grid, tile, strict=True)):
        raise ValueError(f"a tile window needs whole tiles of {tile}, got a grid of {grid}")
    return tuple(size // side for size, side in zip(grid, tile, strict=True))
