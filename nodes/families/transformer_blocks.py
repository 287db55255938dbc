"""The transformer blocks of a model, even where another pack has moved them."""

from collections import Counter
from collections.abc import Iterator

import torch

from .base import BlockList
from .registry import family_of, unwrapped


def transformer_blocks(diffusion_model) -> Iterator[tuple[int | None, torch.nn.Module]]:
    """The transformer blocks of a known model, each with its place among the main ones.

    None for the place: the block is beside them, or in several places. They are found by their
    class: another pack may have put a module that runs them in the place of the list they were in.
    What torch.compile wrapped comes in its wrapping.
    """
    model = unwrapped(diffusion_model)
    lists = family_of(model).block_lists
    main = [each for each in lists if each.main]
    names_beside = {each.name for each in lists if not each.main}
    found, beside = {each.name: [] for each in main}, []
    for name, part in model.named_children():
        if name in names_beside:
            beside += [block for block in part._modules.values() if block is not None]
        else:
            _collect(part, main, found, name)
    main_blocks = [block for blocks in found.values() for block in blocks]
    times = Counter(map(id, main_blocks))
    seen = set()
    for place, block in [*enumerate(main_blocks), *((None, block) for block in beside)]:
        if block is not None and id(block) not in seen:
            seen.add(id(block))
            yield place if times[id(block)] == 1 else None, block


def _collect(module, main: list[BlockList], found: dict[str, list], name: str | None):
    """Put the blocks in a module into the lists in `found`.

    name: of a part of the model; None further inside. A member of a list in which no block can be
    seen counts as one: it may hide it.
    """
    for child in module._modules.values():
        if child is None:
            continue
        ancestors = {cls.__name__ for cls in type(unwrapped(child)).__mro__}
        of_class = next((each.name for each in main if each.block_class in ancestors), None)
        if of_class is not None:
            found[of_class].append(child)
            continue
        before = sum(map(len, found.values()))
        _collect(child, main, found, None)
        if name in found and sum(map(len, found.values())) == before:
            found[name].append(None)
