"""Wraps each forward pass of the model: takes the attention hook, and hooks the model's blocks."""

from contextlib import nullcontext

import torch

from ...radial_core.schedule import step_of
from ..comfyui import features
from ..comfyui.attention_functions import (
    asks_comfyuis_own,
    comfyuis_own,
    preferred_attention,
)
from ..comfyui.branches import branches, window
from ..comfyui.latents import video_of
from ..comfyui.option_keys import BLOCK, IN_PARTS, KEY, PREVIOUS, SLOT
from ..comfyui.sparse_attention import without_sparse_blocks
from ..comfyui.state import is_training
from ..families.registry import token_layout_of
from ..families.transformer_blocks import transformer_blocks
from ..run.record import CallEntry
from .adaptive import TRAINING, PassLists
from .block_hooks import hooked_blocks
from .current_pass import CURRENT, in_pass
from .decision import PassFacts
from .forward_pass import ForwardPass, hook_before_ours, why_all_dense
from .full_attention import as_before, container_function, full
from .override import RadialOverride


class ForwardWrapper:
    """Wrapper of BaseModel.apply_model (WrappersMP.APPLY_MODEL).

    The attention hook has one slot, which other nodes fill too, before or after ours. So we take it
    anew at each forward pass, on the pass's own copy of transformer_options. Calls that we leave
    dense go to the override that was in the slot.
    """

    def __init__(self, override: RadialOverride):
        self.override = override

    def __call__(
        self,
        executor,
        x,
        t,
        c_concat=None,
        c_crossattn=None,
        control=None,
        transformer_options=None,
        **conditions,
    ):
        options = dict(transformer_options or {})
        base, forward, entry = executor.class_obj, None, CallEntry()
        reporter = self.override.reporter
        try:
            if options.get(SLOT) is not self.override:  # else a pass within a pass, which is timed
                entry.mark = reporter.record.start(x.device)
            forward = self._begin(entry, base, x, options, c_crossattn, conditions)
            compiled = features.load("torch.compile support", ".hook.compiled")
            if forward is not None and compiled is not None:
                if compiled.is_compiled(base.diffusion_model, options):
                    conditions[KEY] = compiled.mark(options, base.diffusion_model)
                    reporter.record.compiled = True
        except Exception as error:
            entry.failed(self.override.fail(error))
        is_eager = forward is not None and KEY not in conditions
        hooked = hooked_blocks(forward, base.diffusion_model) if is_eager else nullcontext()
        fusing = fused(base.diffusion_model, x.device) if is_eager else nullcontext()
        try:
            with in_pass(forward, options), hooked, fusing as entry.fused:
                out = executor(x, t, c_concat, c_crossattn, control, options, **conditions)
            if forward is not None:
                entry.blocks = len(forward.blocks)
                if CURRENT.forward is not None:  # this was a pass within another
                    CURRENT.forward.blocks |= forward.blocks
            return out
        finally:
            if forward is not None:
                forward.ended = True
            reporter.end_forward(entry)

    def _begin(
        self, entry: CallEntry, base, x, options: dict, c_crossattn, conditions: dict
    ) -> ForwardPass | None:
        """Put our override on the hook of a forward pass, if some of its calls may be sparse."""
        override, model, x = self.override, base.diffusion_model, video_of(x, conditions)
        previous = hook_before_ours(options)
        for name in (BLOCK, IN_PARTS, PREVIOUS):  # of the block that this is a pass within
            options.pop(name, None)
        sigmas = override.run.host_values.schedule(options)
        step = step_of(sigmas, override.run.host_values.sigma(options))
        entry.step = override.reporter.record.forward(step, x)
        entry.dense = why_all_dense(model, x, options)
        if entry.dense is not None:
            return None
        tokens = token_layout_of(model, x, c_crossattn, conditions)
        resolved = override.run.settings.resolve(base, tokens.grid[0], sigmas)
        schedule, training = resolved.schedule, is_training()
        # Gradient checkpointing runs a call without gradients first, and must get the same.
        stays_exact = training or torch.is_grad_enabled()
        settings, record = override.settings, override.reporter.record
        budget = settings.adaptive_budget
        of_model, early = resolved.settings_of, resolved.early
        record.use(resolved.pattern, schedule, of_model, budget, early, settings.preset)
        lists = None
        if budget is not None:
            why_radial = TRAINING if stays_exact else resolved.why_radial
            record.why_radial = record.why_radial or why_radial
            if why_radial is None:
                lists = PassLists(
                    budget=budget,
                    early=early,
                    step=entry.step,
                    settled=resolved.settled,
                    model=id(model),
                    window=window(options),
                    branches=branches(options, len(x)),
                )
        override.reporter.pass_by(without_sparse_blocks(options))
        of_blocks = override.run.preferred.get(model)
        if of_blocks is None:  # to look at all parts of a model takes milliseconds
            of_blocks = override.run.preferred[model] = preferred(model)
        options[KEY] = forward = ForwardPass(
            override=override,
            previous=previous,
            facts=PassFacts(
                tokens,
                resolved.pattern,
                schedule,
                schedule.is_dense_step(resolved.levels, step),
                None if lists is None else lists.budget_now,
            ),
            step=entry.step,
            preferred=of_blocks,
            takes_containers=_takes_containers(model, previous, of_blocks),
            training=training,
            stays_exact=stays_exact,
            lists=lists,
        )
        options[SLOT] = override
        return forward


def preferred(diffusion_model) -> dict:
    """Block -> the attention function that the checkpoint chose for it."""
    try:
        chosen = {
            place: preferred_attention(block)
            for place, block in transformer_blocks(diffusion_model)
            if block is not None
        }
    except Exception:  # no blocks, or not as we know them: then the checkpoint chose none for us
        return {}
    return {place: function for place, function in chosen.items() if function is not None}


def _takes_containers(diffusion_model, previous, of_blocks: dict) -> bool:
    """Whether a dense call of a pass may go to what takes q, k and v in ComfyUI's containers.

    ComfyUI does not say which function a call in containers is for, so it must be its own.
    """
    try:
        return asks_comfyuis_own(diffusion_model) and any(
            container_function(choose(comfyuis_own(), previous, function)) is not None
            for choose in (full, as_before)
            for function in (None, *of_blocks.values())
        )
    except Exception:  # objects of other packs may answer anything
        return False


def fused(diffusion_model, device: torch.device):
    """On a GPU the blocks of an eager pass are fused."""
    if device.type != "cuda":
        return nullcontext()
    blocks = features.load("fused blocks", ".fused_blocks")
    return nullcontext() if blocks is None else blocks.fused_blocks(diffusion_model)
