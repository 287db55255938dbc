"""What runs in a way of front_ways.py: which blocks are kept, and attention over them."""

from collections.abc import Sequence
from functools import cache

import masks
import per_head
import rest
import torch
from front_ways import ADAPTIVE, BY_MASS, EARLY, LATE, RELEASED, REPAIR, SOL, Way
from ground import Ground
from per_head import BlockLists
from sol import NEIGHBOURS, TAU
from stretches import Chooser, Sparse

from radial_core import Plan
from radial_core.adaptive.choice import most_attended, rows_of
from radial_core.adaptive.repair import repair
from radial_core.dense import dense_attention


def shipped(q, k, v, lists, out, lse) -> torch.Tensor:
    """GiveBack: the pack's own repair."""
    repair(q, k, v, out, slice(0, q.shape[1]))
    return out


GIVE_BACK = {  # name -> what does it, and from which share of the steps on
    REPAIR: (shipped, 0.0),
    "residual repair, 64 rows": (rest.residual_repair(64), 0.0),
    "residual repair, 256 rows": (rest.residual_repair(256), 0.0),
    "residual repair, ridge 0.02": (rest.residual_repair(ridge=0.02), 0.0),
    "residual repair, ridge 0.5": (rest.residual_repair(ridge=0.5), 0.0),
    "residual repair, centred": (rest.residual_repair(centred=True), 0.0),
    "residual repair, standardized": (rest.repair_in_directions(None), 0.0),
    "residual repair, 16 directions": (rest.repair_in_directions(16), 0.0),
    "repair kept from the look": (rest.kept_repair(), 0.0),
    "repair fitted each 2 steps": (rest.kept_repair(2), 0.0),
    "repair fitted each 4 steps": (rest.kept_repair(4), 0.0),
    "mean residual": (rest.mean_residual(), 0.0),
    "pooled rest": (rest.pooled, 0.0),
    "pooled rest from half of the steps on": (rest.pooled, 0.5),
    "first order": (rest.first_order, 0.0),
    "first order and repair": (rest.first_order_and_repair, 0.0),
}
STEP = 0.05
SHARES = [round(0.5 + STEP * n, 2) for n in range(31)]  # that a layer may have, 0.5 to 2
STEEP = 1 / 3  # how much more than the mean the first or the last layer keeps


def attention_of(way: Way, ground: Ground, shares: Sequence[float]) -> dict:
    """What `stretches.stretched` needs besides the run. shares: of the layers, by mass."""
    return {
        "tokens": ground.layout.tokens,
        "choose": chooser(way, ground, shares),
        "sparse": sparse(way),
        "dense": dense_8bit if way.eight_bit else None,
        "dense_blocks": way.dense_blocks,
    }


def plan_of(way: Way, ground: Ground) -> Plan:
    """The radial mask that says how many blocks a way keeps."""
    return _plan(ground.layout, way.decay, way.sink_frames, ground.device)


@cache
def _plan(layout, decay: float, sink_frames: int, device) -> Plan:
    return masks.radial_plan_in_proportion(layout, decay, sink_frames, device)


def chooser(way: Way, ground: Ground, shares: Sequence[float]) -> Chooser:
    plan = plan_of(way, ground)
    if way.lists == ADAPTIVE:
        factors = depth_factors(way.depth, ground.layers, shares)

        def choose(q, k, budget, layer):
            rows = rows_of(plan, budget * factors[layer])
            return [
                BlockLists(most_attended(per_head.mass(*one), rows))
                for one in zip(q, k, strict=True)
            ]

        return choose
    if way.lists == SOL:
        return lambda q, k, budget, layer: []  # it chooses in each call
    kept = plan.block_mask()
    if way.lists == RELEASED:
        kept = masks.released_in_proportion(ground.layout, way.decay, way.sink_frames)
    lists = BlockLists(kept[None].to(ground.device))
    return lambda q, k, budget, layer: [lists] * len(q)


def depth_factors(depth: str | None, layers: int, shares: Sequence[float]) -> list[float]:
    """By which each layer's budget is multiplied; their mean is 1."""
    if depth == BY_MASS:
        return list(shares)
    slope = {None: 0.0, EARLY: -STEEP, LATE: STEEP}[depth]
    return [1 + slope * (2 * layer / (layers - 1) - 1) for layer in range(layers)]


def sparse(way: Way) -> Sparse:
    if way.lists == SOL:
        return sol_in_proportion
    give_back, since = GIVE_BACK.get(way.give_back, (None, 0.0))

    def attention(q, k, v, lists, done):
        if way.eight_bit:
            q, k, v = rounded(q), rounded(k - k.mean(dim=1, keepdim=True)), rounded(v)
        out, lse = per_head.attend(q, k, v, lists)
        if give_back is not None and done >= since:
            return give_back(q, k, v, lists, out, lse)
        return out

    return attention


def rounded(x: torch.Tensor) -> torch.Tensor:
    """(b, s, h, d) rounded to 8 bits, with one scale for each block and head.

    The pack's 8-bit kernel has no blocks this small. Its errors are about as large.
    """
    blocks = x.unflatten(1, (-1, masks.SMALL_BLOCK)).float()
    scale = blocks.abs().amax(dim=(2, 4), keepdim=True).clamp(min=1e-12) / 127
    return ((blocks / scale).round() * scale).flatten(1, 2).to(x.dtype)


def dense_8bit(q, k, v, layer: int) -> torch.Tensor:
    out, name = dense_attention(q, k, v, approximate=True)
    if q.is_cuda and name != "triton_int8":
        raise RuntimeError(f"expected the 8-bit kernel, {name} ran")
    return out


def sol_in_proportion(q, k, v, lists, done) -> torch.Tensor:
    """sol_attn's rule, see sol.py, with blocks of 16 tokens, exactly, and without extra tokens: 256
    are next to nothing at real sizes.
    """
    lists = [BlockLists(above(*one, TAU)) for one in zip(q, k, strict=True)]
    return rest.pooled(q, k, v, lists, *per_head.attend(q, k, v, lists))


def above(q: torch.Tensor, k: torch.Tensor, tau: float) -> torch.Tensor:
    """Blocks whose pooled score is tau standard deviations above the mean, and the neighbours.

    q, k: (s, h, d). Returns bool (h, blocks, blocks).
    """
    q, k = (per_head._means(x, masks.SMALL_BLOCK) for x in (q, k))
    k = k - k.mean(dim=1, keepdim=True)
    spread = (q.square() * k.square().mean(dim=1, keepdim=True)).sum(dim=-1, keepdim=True).sqrt()
    block = torch.arange(q.shape[1], device=q.device)
    return (q @ k.mT > tau * spread) | ((block[:, None] - block).abs() <= NEIGHBOURS)


def layer_shares(plan: Plan, mass: Sequence[torch.Tensor]) -> list[float]:
    """Of the blocks, for each layer, so that all of them keep the most attention; their mean is 1.

    mass: of each layer in other videos, (h, blocks, blocks) each.
    """
    kept = torch.stack([_kept_by_share(plan, each) for each in mass])  # (layers, shares)
    chosen = [0] * len(mass)
    for _ in range(round((1 - SHARES[0]) / STEP) * len(mass)):
        gains = [
            (kept[layer, at + 1] - kept[layer, at]).item() if at + 1 < len(SHARES) else -1.0
            for layer, at in enumerate(chosen)
        ]
        chosen[gains.index(max(gains))] += 1
    return [SHARES[at] for at in chosen]


def _kept_by_share(plan: Plan, mass: torch.Tensor) -> torch.Tensor:
    """The attention that heads keep with each of SHARES of the plan's blocks."""
    found = [(mass * most_attended(mass, rows_of(plan, share))).sum() for share in SHARES]
    return torch.stack(found) / mass.sum()
