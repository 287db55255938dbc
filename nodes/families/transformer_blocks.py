"""The transformer blocks of a model, wherever in it they are now."""

from collections import Counter
from collections.abc import Iterator

import torch

from .registry import family_of, unwrapped

LISTS = {"blocks": 0, "double_blocks": 0, "single_blocks": -1}  # -> their class, of the family's
BESIDE = "vace_blocks"  # blocks of the same classes that are none of the main ones


def transformer_blocks(diffusion_model) -> Iterator[tuple[int | None, torch.nn.Module]]:
    """The transformer blocks of a known model, each with its place among the main ones.

    None for the place: the block is beside them, or in several places. They are found by their
    class: another pack may have put a module that runs them in the place of the list they were in.
    What torch.compile wrapped comes in its wrapping.
    """
    model = unwrapped(diffusion_model)
    classes = family_of(model).blocks
    found = {place: [] for place in range(len(classes))}
    beside = []
    for name, part in model.named_children():
        _collect(part, classes, found, beside, name)
    main = [block for blocks in found.values() for block in blocks]
    times = Counter(map(id, main))
    hooked = set()
    for place, block in [*enumerate(main), *((None, block) for block in beside)]:
        if block is not None and id(block) not in hooked:
            hooked.add(id(block))
            yield place if times[id(block)] == 1 else None, block


def _collect(module, classes: tuple[str, ...], found: dict, beside: list, name: str | None):
    """name: the model's, for a part of it; None further in.

    A member of one of its lists in which no block is seen counts as one: it may hide it.
    """
    for child in module._modules.values():
        if child is None:
            continue
        ancestors = {kind.__name__ for kind in type(unwrapped(child)).__mro__}
        place = next((i for i, each in enumerate(classes) if each in ancestors), None)
        if name == BESIDE:
            beside.append(child)
        elif place is not None:
            found[place].append(child)
        else:
            before = sum(map(len, found.values()))
            _collect(child, classes, found, beside, None)
            if name in LISTS and sum(map(len, found.values())) == before:
                found[range(len(classes))[LISTS[name]]].append(None)
