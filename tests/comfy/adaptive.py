"""Adaptive lists without our hook: a model whose self-attention looks for itself, by the reference.

What it is told apart by is not what nodes/comfyui/branches.py reads: a prompt is known by its text,
a window by its first frames.
"""

import math
from collections import Counter
from dataclasses import dataclass, field

import comfy.utils
import torch
from conftest import by_token, pack_module, with_override, with_wrapper

SETTINGS = {"dense_steps": 1, "lists": "adaptive"}


@dataclass
class Looks:
    """found: what a list is for -> the plan with it. radial: the plan it stands in for.

    steps: those in which something was looked for. calls: of the reference. override: for calls
    that reach ComfyUI's function without the hook.
    """

    found: dict = field(default_factory=dict)
    radial: dict = field(default_factory=dict)
    steps: set = field(default_factory=set)
    calls: int = 0
    override: object = None

    def forget(self):
        """What a run found."""
        self.found.clear()
        self.radial.clear()

    def all_differ(self) -> bool:
        """From radial lists. In a video of few blocks those of a head may be the same."""
        pairs = ((self.found[key], self.radial[key]) for key in self.found)
        return all((ours.block_mask() != radial.block_mask()).any() for ours, radial in pairs)


def oracle(
    model,
    budget=1.0,
    dense_steps=1,
    around=None,
    looks_in=lambda step: True,
    settled=0,
    early=None,
):
    """A model that has adaptive lists after its dense steps, and its `Looks`.

    around: tokens before and after the video's, for each kind of pass; all before it if None.
    looks_in: the steps in which it may look; in others a call without lists is radial. settled: the
    step in which it looks again. early: the budget before it; None for the same.
    """
    side = 1 if hasattr(model.model.diffusion_model, "patchifier") else 2
    side = 1 if model.model.model_config.unet_config.get("patch_size") == [1, 1, 1] else side
    core, reference = pack_module("radial_core"), pack_module("radial_core.reference")
    look = pack_module("radial_core.adaptive.lists").look
    repair = pack_module("radial_core.adaptive.repair")
    pattern, looks, now, looked = core.RadialPattern(0.2, 1, 64), Looks(), {}, {}

    def wrapper(executor, x, t, c_concat, c_crossattn, control, options, **conditions):
        video = comfy.utils.unpack_latents(x, conditions.get("latent_shapes") or ())[0]
        frames, height, width = video.shape[2:]
        texts = [hash(text.float().numpy().tobytes()) for text in c_crossattn]
        seen, names = Counter(), []
        for text in texts:
            names.append((text, seen[text]))
            seen[text] += 1
        window = getattr(options.get("context_window"), "index_list", [None])
        levels, level = options["sample_sigmas"].tolist(), options["sigmas"][0].item()
        now.update(
            grid=(frames, -(-height // side), -(-width // side)),
            branches=names,
            window=tuple(window),
            step=sum(each > level - 1e-4 for each in levels) - 1,  # some samplers round
            call=0,
        )
        return executor(x, t, c_concat, c_crossattn, control, options, **conditions)

    def override(func, q, k, v, heads, mask=None, skip_reshape=False, **kwargs):
        axis = 2 if skip_reshape else 1
        rest = q.shape[axis] - math.prod(now["grid"])
        sides = (rest, 0) if around is None else next((x for x in around if sum(x) == rest), None)
        is_ours = q.shape[axis] == k.shape[axis] and rest >= 0 and sides is not None
        if not is_ours or now["step"] < dense_steps:
            return func(q, k, v, heads, mask=mask, skip_reshape=skip_reshape, **kwargs)
        q, k, v = by_token(q, k, v, heads, skip_reshape)
        unmasked = torch.ones(q.shape[1]) > 0 if mask is None else mask.flatten() == 0
        layout = core.VideoLayout(*now["grid"], sides[0] - int((~unmasked).sum()), sides[1])
        plan, out = core.make_plan(pattern, layout), torch.zeros_like(v)
        for i, branch in enumerate(now["branches"]):
            one = [x[i : i + 1, unmasked] for x in (q, k, v)]
            key = branch, now["window"], now["call"], layout
            again = looked.get(key, settled) < settled <= now["step"]
            if again or key not in looks.found and looks_in(now["step"]):
                now_budget = budget if early is None or now["step"] >= settled else early
                looks.found[key] = look(one[0][0], one[1][0], plan, now_budget).plan()
                looks.radial[key] = plan
                looked[key] = now["step"]
                looks.steps.add(now["step"])
            lists = looks.found.get(key, plan)
            found = reference.reference_attention(*one, lists).to(v.dtype)
            if lists is not plan:
                repair.repair(*one, found, repair.repaired(layout, pattern.block_size))
            out[i, unmasked] = found[0]
        now["call"] += 1
        looks.calls += 1
        return out.flatten(2)

    looks.override = override
    return with_wrapper(with_override(model, override), wrapper), looks


def records(model):
    """The records of a patched model's sampler runs."""
    return list(pack_module("nodes.hook.attach").override_of(model).runs)


def times_looked(model) -> list[int]:
    """In each of those runs."""
    return [record.read()["adaptive"]["looks"] for record in records(model)]
