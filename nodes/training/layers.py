"""The layers of a model's transformer blocks, by name."""

from collections.abc import Iterator

import torch

from ..families.registry import class_name, family_of, unwrapped

# The layers of a block that make q, k, v and o of the video's self-attention. Where one makes q, k
# and v, it is all three. HunyuanVideo's single blocks have the MLP in the same layers.
_WAN = {name: (f"self_attn.{name}",) for name in "qkvo"}
_HUNYUAN = dict.fromkeys("qkv", ("img_attn.qkv", "linear1")) | {"o": ("img_attn.proj", "linear2")}
_MOCHI = dict.fromkeys("qkv", ("attn.qkv_x",)) | {"o": ("attn.proj_x",)}
PROJECTIONS = {
    "comfy.ldm.hunyuan_video.model.HunyuanVideo": _HUNYUAN,
    "comfy.ldm.genmo.joint_model.asymm_models_joint.AsymmDiTJoint": _MOCHI,
}


def projections_of(diffusion_model) -> dict[str, tuple[str, ...]] | None:
    """q, k, v and o -> layers of a block; None if the model is not known."""
    if family_of(diffusion_model) is None:
        return None
    return PROJECTIONS.get(class_name(diffusion_model), _WAN)


def blocks_of(diffusion_model) -> Iterator[tuple[str, int, torch.nn.Module]]:
    """The transformer blocks of a known model: path, index among those of its kind, module."""
    for name, blocks in unwrapped(diffusion_model).named_children():
        if name.endswith("blocks") and isinstance(blocks, torch.nn.ModuleList):
            yield from ((f"{name}.{i}", i, block) for i, block in enumerate(blocks))


def weights_of(diffusion_model) -> Iterator[tuple[str, str]]:
    """The weights of the blocks that Train LoRA knows: ComfyUI's key, and the layer's name in its
    block, such as "self_attn.q"."""
    for path, _, block in blocks_of(diffusion_model):
        for name, module in block.named_modules():
            weight = getattr(module, "weight", None)
            if hasattr(module, "weight_function") and weight is not None:
                yield f"diffusion_model.{path}.{name}.weight", name


def chosen_weights(diffusion_model, layers: str) -> frozenset[str]:
    """ComfyUI's keys for the weights of the layers that are named.

    layers: names with commas between: q, k, v and o, and any other layer or part of a block.

    Raises ValueError if the model is not known, or has no layer of such a name.
    """
    projections = projections_of(diffusion_model)
    if projections is None:
        kind = type(unwrapped(diffusion_model)).__name__
        raise ValueError(f"model must be a Wan, HunyuanVideo or Mochi, got {kind}")
    there = dict(weights_of(diffusion_model))
    words = [word.strip() for word in layers.split(",") if word.strip()]
    chosen = set()
    for word in words or [""]:
        found = _named(projections.get(word, (word,)), there)
        if not found:
            possible = [name for name, parts in projections.items() if _named(parts, there)]
            names = ", ".join(dict.fromkeys((*possible, *there.values())))
            got = repr(word if len(word) < 60 else f"{word[:60]}...")
            raise ValueError(f"layers must be names out of {names:.280}, got {got}")
        chosen |= found
    return frozenset(chosen)


def _named(parts: tuple[str, ...], there: dict[str, str]) -> set[str]:
    """The keys of the weights whose layers have one of the parts. there: key -> layer."""
    return {key for key, name in there.items() if any(_is_part(part, name) for part in parts)}


def _is_part(part: str, name: str) -> bool:
    """Whether "self_attn.q" or the like has a part, such as "self_attn" or "self_attn.q"."""
    return f".{part}." in f".{name}."
