"""A MODEL whose self-attention changes over a run: dense in some steps, over block lists in others.

What runs is read from the noise level of each call. So it holds for a run that starts in the middle
of the schedule, and for one in which a cache skips steps.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from front_ways import Stretch
from masked import Attention, hooked
from per_head import BlockLists

from radial_core.schedule import step_of

# (q, k) of a batch, (b, s, h, d) each, the budget and the layer -> lists for each video.
Chooser = Callable[[torch.Tensor, torch.Tensor, float, int], list[BlockLists]]
# (q, k, v, lists, share of the steps that are over) -> out (b, s, h, d).
Sparse = Callable[..., torch.Tensor]


@dataclass
class Run:
    """What one run does, and what it did. steps: step -> the stretch that it ran in."""

    sigmas: list[float]
    stretches: tuple[Stretch, ...]
    steps: dict[int, Stretch] = field(default_factory=dict)
    looks: set[int] = field(default_factory=set)
    lists: dict[int, tuple[Stretch, list[BlockLists]]] = field(default_factory=dict)

    def stretch(self, step: int) -> Stretch:
        count = len(self.sigmas) - 1
        return next(each for each in self.stretches if step < round_down(each.until * count))


def round_down(steps: float) -> int:
    """A number of steps, as the node has it: 0.1 of 30 are 3."""
    return int(steps + 1e-6)


def stretched(
    model,
    run: Run,
    tokens: int,
    choose: Chooser,
    sparse: Sparse,
    dense: Attention | None = None,
    dense_blocks: int = 0,
):
    """The MODEL, for one run of the sampler.

    tokens: of the video. dense: None for ComfyUI's attention. dense_blocks: the first layers.
    """

    def override(func, q, k, v, heads, *args, **kwargs):
        options = kwargs["transformer_options"]
        if not q.shape[1] == k.shape[1] == tokens:
            return func(q, k, v, heads, *args, **kwargs)
        step, layer = step_of(run.sigmas, options["sigmas"][0].item()), options["block_index"]
        stretch = run.steps[step] = run.stretch(step)
        if stretch.budget is None or layer < dense_blocks:
            if dense is None:
                return func(q, k, v, heads, *args, **kwargs)
            q, k, v = (x.unflatten(-1, (heads, -1)) for x in (q, k, v))
            return dense(q, k, v, layer).flatten(2)
        q, k, v = (x.unflatten(-1, (heads, -1)) for x in (q, k, v))
        if layer not in run.lists or run.lists[layer][0] != stretch:
            run.lists[layer] = stretch, choose(q, k, stretch.budget, layer)
            run.looks.add(step)
        done = step / (len(run.sigmas) - 1)
        return sparse(q, k, v, run.lists[layer][1], done).flatten(2)

    return hooked(model, override)
