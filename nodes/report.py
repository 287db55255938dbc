"""Radial Attention Report: what ran radial and what dense in the run that made a latent."""

import json
import logging
from collections.abc import Sequence

import torch
from comfy_api.latest import io

from .comfyui.node_ui import picture_and_text
from .drawing import report as drawing
from .drawing.canvas import as_image
from .hook.attach import override_of
from .inputs.checks import check_latent, check_model
from .run import gpus_text, summary_text
from .run.record import Record

VERSION = 1  # of the JSON

log = logging.getLogger("radial_attention")

UNPATCHED = "this model did not go through Radial Attention Patch, so nothing ran radial in it"
NOTHING = (
    "no run of this model is known: nothing has sampled with it yet, or ComfyUI has loaded it anew "
    "since. Queue again with another seed"
)


class RadialAttentionReport(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="RadialAttentionReport",
            display_name="Radial Attention Report",
            category="radial attention",
            description="Shows what ran in a sampler: which steps and blocks were radial or dense "
            "and why, the seconds of each step, and the time saved. Put it between the sampler and "
            "the VAE.",
            search_aliases=["radial", "radial report", "what ran", "sparse or dense", "timing"],
            inputs=[
                io.Latent.Input(
                    "samples", tooltip="The sampler's output. It passes through unchanged."
                ),
                io.Model.Input(
                    "model",
                    tooltip="The model with Radial Attention Patch that the sampler used.",
                ),
                io.Model.Input(
                    "second_model",
                    optional=True,
                    tooltip="The second model, if two samplers share the steps as with Wan 2.2.",
                ),
            ],
            outputs=[
                io.Latent.Output("samples", tooltip="The samples, unchanged."),
                io.Image.Output(
                    "image", tooltip="Steps across, blocks down; below, the seconds of each step."
                ),
                io.String.Output("text", tooltip="What ran, as text."),
                io.String.Output(
                    "json",
                    tooltip="For programs: what ran by step and block, seconds, settings.",
                ),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, samples, model, second_model=None) -> io.NodeOutput:
        check_latent(samples, "samples")
        check_model(model)
        if second_model is not None:
            check_model(second_model, "second_model")
        try:
            picture, text, data = report(samples, model, second_model)
        except Exception as error:  # the video must not be lost for it
            log.exception("Radial attention: no report")
            picture = torch.ones(1, 64, 64, 3)
            text, data = f"No report. {type(error).__name__}: {error}", {}
        on_node = picture_and_text(picture, text, cls)
        return io.NodeOutput(samples, picture, text, json.dumps(data), ui=on_node)


def report(samples: dict, model, second_model=None) -> tuple[torch.Tensor, str, dict]:
    """The picture, the words and the plain values of a report."""
    models = {"": model} if second_model is None else {"first": model, "second": second_model}
    sections, texts, runs = [], [], []
    for which, each in models.items():
        title, found = f"{which} model" if which else "", run_of(each, samples)
        if isinstance(found, str):
            section = text = summary_text.sentence(found)
            run = {"problem": text}
        else:
            section = run = _read(found)
            text = summary_text.report(run)
        sections.append((title, section))
        texts.append(f"{summary_text.sentence(title)}\n{text}" if title else text)
        runs.append(run)
    picture = as_image(drawing.draw(sections))
    return picture, "\n\n".join(texts), {"version": VERSION, "runs": runs}


def _read(record: Record) -> dict:
    """What a record has read. With several GPUs, the seconds of self-attention on each of them."""
    run = record.read()
    if (gpus := run["totals"]["gpus"]) is not None:
        each = gpus_text.attention_seconds(run)
        run["totals"]["gpus"] = gpus | {"attention_seconds": each}
        run["totals"]["attention_seconds_of_all"] = each and sum(each)
    return run


def run_of(model, samples: dict) -> Record | str:
    """The run that made a latent, as far as that can be told: the newest of its shape, else the
    newest. If there is none, why."""
    override = override_of(model)
    if override is None:
        return UNPATCHED
    runs = list(override.runs)
    if not runs:
        return NOTHING
    shape = getattr(samples["samples"], "shape", ())
    return next((run for run in reversed(runs) if _fits(run, shape)), runs[-1])


def _fits(run: Record, shape: Sequence[int]) -> bool:
    """Whether the model saw latents of this shape. Its batches are its own."""
    return run.latent is not None and tuple(run.latent[1:]) == tuple(shape[1:])
