"""Radial Attention Probe: MODEL -> MODEL that is measured while it samples."""

from comfy_api.latest import io

from .inputs.checks import check_model
from .probing.choice import FEWEST_TOKENS, MOST_TOKENS, Choice, read_blocks, read_steps
from .probing.hook import Probe, attach


class RadialAttentionProbe(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="RadialAttentionProbe",
            display_name="Radial Attention Probe",
            category="model/patch",
            description="Measures on your own model, while it samples, what Radial Attention would "
            "leave out: how much of the attention, and what error that makes, for many settings at "
            "once. The video stays the same. Radial Attention Compare shows what was found.",
            search_aliases=[
                "radial",
                "measure attention",
                "attention error",
                "energy coverage",
                "attention map",
            ],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="A video model: Wan, HunyuanVideo or Mochi, before Radial Attention "
                    "Patch or behind it. Under torch.compile nothing is measured.",
                ),
                io.String.Input(
                    "steps",
                    default="25%, 50%, 75%",
                    tooltip="Steps of the sampler to measure, with commas between: numbers from "
                    "0, shares of the run like 25%, or last.",
                ),
                io.String.Input(
                    "blocks",
                    default="all",
                    tooltip="Transformer blocks to measure: all, or numbers from 0 and ranges with "
                    "commas between, like 0-3, 10. Of the others the measured ones on either side "
                    "tell.",
                ),
                io.Int.Input(
                    "tokens",
                    default=128,
                    min=FEWEST_TOKENS,
                    max=MOST_TOKENS,
                    tooltip="Tokens of the video that are measured in each attention call, spread "
                    "over all frames: each exactly, against all others. More is steadier and "
                    "slower.",
                    advanced=True,
                ),
            ],
            outputs=[
                io.Model.Output(
                    tooltip="The model with the probe in it. Goes to the sampler, and to Radial "
                    "Attention Compare behind that."
                )
            ],
        )

    @classmethod
    def execute(cls, model, steps, blocks, tokens) -> io.NodeOutput:
        check_model(model)
        probe = Probe(Choice(read_steps(steps), read_blocks(blocks), tokens))
        model = model.clone()
        attach(model, probe)
        return io.NodeOutput(model)
