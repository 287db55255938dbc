"""The transformer blocks of a model, wherever in it they are now."""

from collections.abc import Iterator

import torch

from .models import family_of, unwrapped

BESIDE = "vace_blocks"  # blocks of the same classes that are none of the main ones


def transformer_blocks(diffusion_model) -> Iterator[tuple[int | None, torch.nn.Module]]:
    """The transformer blocks of a known model, and their places among the main ones, if they are.

    They are found by their class: another pack may have put a module that runs them in the place of
    the list they were in. What torch.compile wrapped comes in its wrapping.
    """
    model = unwrapped(diffusion_model)
    found = [[] for _ in family_of(model).blocks] + [[]]
    _collect_blocks(model, family_of(model).blocks, found, seen=set(), beside=False)
    *main, beside = found
    yield from enumerate(block for blocks in main for block in blocks)
    yield from ((None, block) for block in beside)


def _collect_blocks(module, classes: tuple[str, ...], found: list[list], seen: set, beside: bool):
    for name, child in module.named_children():
        if id(child) in seen:
            continue
        seen.add(id(child))
        ancestors = {kind.__name__ for kind in type(unwrapped(child)).__mro__}
        place = next((i for i, each in enumerate(classes) if each in ancestors), None)
        if place is None:
            _collect_blocks(child, classes, found, seen, beside or name == BESIDE)
        else:
            found[-1 if beside else place].append(child)
