"""Radial Trim LoRA: a trained LoRA without the layers that do nothing."""

from collections import defaultdict

import torch
from comfy_api.latest import io

from .inputs.checks import short

LORA = io.Custom("LORA_MODEL")
# A layer's change is a product of these, by the names that ComfyUI trains and loads; for OFT they
# are the angles of a rotation. If one is all zeros, there is no change.
FACTORS = {
    *("lora_up.weight", "lora_down.weight", "lora_mid.weight"),
    *("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),
    *("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b"),
    "oft_blocks",
}
SUMMANDS = {"diff", "diff_b"}  # each is added to a weight or bias by itself
SCALE = "alpha"


class RadialTrimLora(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="RadialTrimLora",
            display_name="Radial Trim LoRA",
            category="radial attention",
            description="Removes the layers that do nothing from a LoRA, such as those that Radial "
            "Train Layers left untrained. The file gets smaller and loads faster, and the video "
            "stays the same. Put it between Train LoRA and Save LoRA.",
            search_aliases=["radial", "train lora", "prune lora", "smaller lora"],
            inputs=[LORA.Input("lora", tooltip="The output of Train LoRA.")],
            outputs=[
                LORA.Output(display_name="lora", tooltip="The LoRA without the idle layers."),
                io.String.Output(display_name="text", tooltip="What was kept, as text."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, lora) -> io.NodeOutput:
        check_lora(lora)
        trimmed = trim(lora)
        layers, sizes = (
            [measure(each) for each in (trimmed, lora)] for measure in (_layer_count, _megabytes)
        )
        text = f"Kept {layers[0]} of {layers[1]} layers, {sizes[0]:.3g} of {sizes[1]:.3g} MB."
        if not trimmed:
            text = f"Nothing is left: none of {layers[1]} layers was trained."
        return io.NodeOutput(trimmed, text, ui={"text": (text,)})


def check_lora(lora) -> None:
    """Raises ValueError if it is not a LORA_MODEL."""
    names = isinstance(lora, dict) and lora and all(isinstance(name, str) for name in lora)
    if not names or not all(isinstance(x, torch.Tensor) for x in lora.values()):
        raise ValueError(f"lora must come from Train LoRA, got {short(lora)}")


def trim(lora: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A LoRA without the entries that change no weight. Unknown entries are kept."""
    idle = set()
    for layer, parts in _layers(lora).items():
        zeros = {part for part in parts if not lora[_join(layer, part)].any()}
        idle |= {_join(layer, part) for part in zeros & SUMMANDS}
        product = parts - SUMMANDS
        if zeros & FACTORS and product <= FACTORS | {SCALE}:
            idle |= {_join(layer, part) for part in product}
    return {name: x for name, x in lora.items() if name not in idle}


def _layers(lora: dict[str, torch.Tensor]) -> dict[str, set[str]]:
    """Layer -> the suffixes of its entries' names, such as "lora_up.weight"."""
    layers = defaultdict(set)
    for name in lora:
        known = (part for part in (*FACTORS, *SUMMANDS, SCALE) if name.endswith(f".{part}"))
        part = next(known, name.rpartition(".")[2])
        layers[name.removesuffix(part).removesuffix(".")].add(part)
    return layers


def _join(layer: str, part: str) -> str:
    return f"{layer}.{part}" if layer else part


def _layer_count(lora: dict[str, torch.Tensor]) -> int:
    return len(_layers(lora))


def _megabytes(lora: dict[str, torch.Tensor]) -> float:
    return sum(x.numel() * x.element_size() for x in lora.values()) / 1e6
