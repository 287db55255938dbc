"""What the presets make of a sampler's part of the schedule: the table in docs/samplers.md."""

import re

import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy_extras import nodes_custom_sampler as custom
from conftest import PACK, pack_module, patch, prompt, sample

AUTOMATIC = {"dense_steps": -1, "dense_last_steps": 1, "dense_blocks": -1, "sink_frames": -1}
AUTOMATIC["decay"] = 0
SIZE = 5, 8, 8  # of the latent
HANDS_OVER = {"start_step": 0, "last_step": 4}
JUMPS = {**HANDS_OVER, "force_full_denoise": True}


def ksampler(steps=8, **options):
    return lambda model: sample(model, *SIZE, steps=steps, cfg=1.0, **options)


def by_sigmas(of_model):
    """A run of sigmas: model -> sigmas."""

    def run(model):
        latent = {"samples": torch.zeros(1, 16, *SIZE)}
        sampler = comfy.samplers.sampler_object("euler")
        texts = prompt(7), prompt(8)
        custom.SamplerCustom.execute(model, True, 1, 1.0, *texts, sampler, of_model(model), latent)

    return run


def sigmas_of(model, steps=8):
    return custom.BasicScheduler.execute(model, "simple", steps, 1.0).args[0]


def split(part):
    return by_sigmas(lambda model: custom.SplitSigmas.execute(sigmas_of(model), 4).args[part])


def wan_moe(high):
    """As WanMoeKSampler does: the first expert returns a video without noise."""

    def run(model):
        sampling = model.get_model_object("model_sampling")
        sigmas = comfy.samplers.calculate_sigmas(sampling, "simple", 20)
        below = [sampling.timestep(sigma) / 1000 < 0.875 for sigma in sigmas[1:]]
        stop = below.index(True)
        part = {"start_step": 0, "last_step": stop} if high else {"start_step": stop}
        return ksampler(20, **part, force_full_denoise=True)(model)

    return run


RUNS = {
    "KSampler": ksampler(),
    "KSampler, uni_pc": ksampler(sampler="uni_pc"),
    "KSampler, beta": ksampler(scheduler="beta"),
    "KSampler, karras": ksampler(scheduler="karras"),
    "KSampler, linear_quadratic": ksampler(scheduler="linear_quadratic"),
    "KSampler, ddim_uniform": ksampler(scheduler="ddim_uniform"),
    "KSampler, ddim_uniform with uni_pc: starts a step late": ksampler(
        scheduler="ddim_uniform", sampler="uni_pc"
    ),
    "KSampler, a LoRA for few steps": ksampler(4),
    "the same 2": ksampler(2),
    "the same 1": ksampler(1),
    "ManualSigmas, of shift 5 on a model of shift 8": by_sigmas(
        lambda model: custom.ManualSigmas.execute("1, 0.9375, 0.8333, 0.625, 0").args[0]
    ),
    "KSampler, denoise 0.9: ComfyUI leaves out none of so few steps": ksampler(denoise=0.9),
    "KSampler, denoise 0.8": ksampler(denoise=0.8),
    "KSampler, denoise 0.5": ksampler(denoise=0.5),
    "KSamplerAdvanced, steps 0 to 4 of 8, leftover noise enabled": ksampler(**HANDS_OVER),
    "KSamplerAdvanced, steps 4 to 8 of 8": ksampler(start_step=4, force_full_denoise=True),
    "KSamplerAdvanced, steps 0 to 4 of 8, leftover noise disabled": ksampler(**JUMPS),
    "the same, uni_pc": ksampler(**JUMPS, sampler="uni_pc"),
    "the same, beta": ksampler(**JUMPS, scheduler="beta"),
    "SplitSigmas at 4 of 8, high": split(0),
    "SplitSigmas at 4 of 8, low": split(1),
    "WanMoeKSampler, 20 steps, high": wan_moe(high=True),
    "WanMoeKSampler, 20 steps, low": wan_moe(high=False),
    "steps 0 to 2 of 4, leftover noise disabled": ksampler(
        4, start_step=0, last_step=2, force_full_denoise=True
    ),
    "steps 2 to 4 of 4": ksampler(4, start_step=2, force_full_denoise=True),
    "the first of three: 0 to 2 of 8": ksampler(start_step=0, last_step=2),
    "the second of three: 2 to 4 of 8": ksampler(start_step=2, last_step=4),
    "the third of three: 4 to 8 of 8": ksampler(start_step=4),
    "steps 1 to 6 of 6": ksampler(6, start_step=1, force_full_denoise=True),
    "FlipSigmas, from the clean video to noise": by_sigmas(
        lambda model: custom.FlipSigmas.execute(sigmas_of(model)).args[0]
    ),
}


def table() -> dict:
    """sampler -> (steps, preset, dense steps), as docs/samplers.md has it."""
    rows = {}
    for line in (PACK / "docs/samplers.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and len(cells) == 4 and cells[1].isdigit():
            name, steps, preset, dense = cells
            name = f"{name} {steps}" if name == "the same" else name
            rows[name] = int(steps), preset, [int(n) for n in re.findall(r"\d+", dense)]
    return rows


def test_the_table_has_every_run():
    assert list(table()) == list(RUNS)


@pytest.mark.parametrize("name", RUNS)
def test_what_a_sampler_gets(wan, name):
    steps, preset, dense = table()[name]
    model = patch(wan, **AUTOMATIC)
    RUNS[name](model)
    (record,) = pack_module("nodes.hook.attach").override_of(model).runs
    run = record.read()
    assert (len(run["steps"]), run["settings_of"]) == (steps, preset)
    assert run["settings"]["decay"] == {"Wan 2.1": 0.2, "Wan 2.2": 0.8}[preset]
    assert dense_steps(run) == dense


def dense_steps(run) -> list[int]:
    """From 1."""
    return [
        step["step"] + 1
        for step in run["steps"]
        if any("dense step" in entry["calls"] for entry in step["blocks"])
    ]
