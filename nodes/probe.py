"""Radial Attention Probe: MODEL -> MODEL that is measured while it samples."""

from comfy_api.latest import io

from .families.node_texts import family_names
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
            "skip: how much of the attention, and how large the error is, for many settings at "
            "once. The video stays the same. Radial Attention Compare shows the results.",
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
                    tooltip=f"A video model: {family_names('or')}, before or after Radial "
                    "Attention Patch. Nothing is measured under torch.compile.",
                ),
                io.String.Input(
                    "steps",
                    default="25%, 50%, 75%",
                    tooltip="Steps of the sampler to measure, separated by commas: numbers from 0, "
                    "shares of the run such as 25%, or last.",
                ),
                io.String.Input(
                    "blocks",
                    default="all",
                    tooltip="Transformer blocks to measure: all, or numbers from 0 and ranges, "
                    "separated by commas, such as 0-3, 10. Blocks between are estimated from the "
                    "measured ones on either side.",
                ),
                io.Int.Input(
                    "tokens",
                    default=128,
                    min=FEWEST_TOKENS,
                    max=MOST_TOKENS,
                    tooltip="How many of the video's tokens are measured in each attention call, "
                    "spread over all frames. Each is measured exactly, against all other tokens. "
                    "More tokens give steadier results and take longer.",
                    advanced=True,
                ),
            ],
            outputs=[
                io.Model.Output(
                    tooltip="The model with the probe in it. Connect it to the sampler, and to "
                    "Radial Attention Compare after that."
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
