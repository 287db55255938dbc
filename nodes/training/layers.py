"""The layers of a model's transformer blocks, by name."""

from collections.abc import Iterator

import torch

from ..families.node_texts import family_names
from ..families.registry import class_name, family_of, unwrapped


def blocks_of(diffusion_model) -> Iterator[tuple[str, str, int, torch.nn.Module]]:
    """The transformer blocks of a known model: path, name of its list, index in that, module."""
    model = unwrapped(diffusion_model)
    for name in dict.fromkeys(each.name for each in family_of(model).block_lists):
        blocks = getattr(model, name, None)
        if isinstance(blocks, torch.nn.ModuleList):
            yield from ((f"{name}.{i}", name, i, block) for i, block in enumerate(blocks))


def weights_of(diffusion_model) -> Iterator[tuple[str, str]]:
    """The weights of the blocks that Train LoRA knows: ComfyUI's key, and the layer's name in its
    block, such as "self_attn.q"."""
    for path, _, _, block in blocks_of(diffusion_model):
        for name, module in block.named_modules():
            weight = getattr(module, "weight", None)
            if hasattr(module, "weight_function") and weight is not None:
                yield f"diffusion_model.{path}.{name}.weight", name


def chosen_weights(diffusion_model, layers: str) -> frozenset[str]:
    """ComfyUI's keys for the weights of the layers that are named.

    layers: names with commas between: q, k, v and o, and any other layer or part of a block.

    Raises ValueError if the model's layers are not known, or none has such a name.
    """
    family = family_of(diffusion_model)
    if family is None:
        known = family_names("or")
        raise ValueError(f"model must be {known}, got {class_name(diffusion_model)}")
    if not family.projections:
        raise ValueError(
            f"model must be one whose layers this pack knows, got {family.name}, "
            "whose q, k, v and o it doesn't know"
        )
    names = dict(weights_of(diffusion_model))
    words = [word.strip() for word in layers.split(",") if word.strip()]
    chosen = set()
    for word in words or [""]:
        found = _named(family.projections.get(word, (word,)), names)
        if not found:
            possible = [name for name, parts in family.projections.items() if _named(parts, names)]
            listed = ", ".join(dict.fromkeys((*possible, *names.values())))
            got = repr(word if len(word) < 60 else f"{word[:60]}...")
            raise ValueError(f"layers must be names out of {listed:.280}, got {got}")
        chosen |= found
    return frozenset(chosen)


def _named(parts: tuple[str, ...], names: dict[str, str]) -> set[str]:
    """The keys of the weights whose layers have one of the parts. names: key -> layer."""
    return {key for key, name in names.items() if any(_is_part(part, name) for part in parts)}


def _is_part(part: str, name: str) -> bool:
    """Whether "self_attn.q" or the like has a part, such as "self_attn" or "self_attn.q"."""
    return f".{part}." in f".{name}."
