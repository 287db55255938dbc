"""Radial Multi-GPU: MODEL -> MODEL of which each forward pass runs on several GPUs."""

import logging

from comfy_api.latest import io

from .cards.devices import cards_of
from .comfyui import features
from .families.node_texts import sharing_families
from .inputs.checks import check_model, check_number

MOST = 64

log = logging.getLogger("radial_attention")


class RadialMultiGPU(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="RadialMultiGPU",
            display_name="Radial Multi-GPU",
            category="model/patch",
            description="Makes one video with several GPUs: each computes a part of every step, so "
            f"a step is faster. For {sharing_families()}, with or without Radial Attention Patch. "
            "Every GPU needs memory for the whole model. Needs Linux.",
            search_aliases=[
                "radial",
                "multi gpu",
                "multigpu",
                "multiple gpus",
                "two gpus",
                "dual gpu",
                "several gpus",
                "parallel",
                "ulysses",
                "sequence parallel",
                "context parallel",
                "distributed",
            ],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The model, with its LoRAs. Radial Attention Patch may come before or "
                    "after this node.",
                ),
                io.Int.Input(
                    "gpus",
                    default=0,
                    min=0,
                    max=MOST,
                    tooltip="How many GPUs compute each step, the model's own one included. 0 is "
                    "all that ComfyUI sees; 1 is as without this node. If there are fewer, it runs "
                    "on those, and the node says so.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The model, to run on several GPUs.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model, gpus=0) -> io.NodeOutput:
        check_model(model)
        check_number("gpus", gpus, 0, MOST, whole=True)
        node = getattr(cls.hidden, "unique_id", None)  # None outside a server
        model = model.clone()
        engine = features.load("several GPUs", ".cards.attach")
        if engine is None:
            text = one_gpu("this version of ComfyUI or torch lacks what several need")
        else:
            engine.attach(model, gpus, node)
            cards, why_fewer = cards_of(model.load_device, gpus)
            text = in_words([str(card) for card in cards], why_fewer)
            if why_fewer is not None:
                log.warning("Radial Multi-GPU: %s", text)
        return io.NodeOutput(model, ui={"text": (text,)})


def in_words(cards: list[str], why_fewer: str | None) -> str:
    """What the node says before the first run."""
    if len(cards) == 1:
        return one_gpu(why_fewer)
    text = f"Runs on {len(cards)} GPUs: {', '.join(cards)}."
    return text if why_fewer is None else f"{text} {why_fewer[0].upper()}{why_fewer[1:]}."


def one_gpu(why: str | None) -> str:
    return "Runs on 1 GPU." if why is None else f"Runs on 1 GPU: {why}."
