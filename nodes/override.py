"""The hook: sends a model's self-attention through the radial core, one call at a time."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import comfy.model_management
import torch
from einops import rearrange

from ..radial_core import Plan, RadialPattern, Schedule, make_plan, radial_attention
from ..radial_core.attention import choose_backend
from ..radial_core.schedule import step_of
from .models import other_sequences, self_attention_layout, why_not_forward
from .tally import Tally

SLOT = "optimized_attention_override"  # ComfyUI's hook, in transformer_options
KEY = "radial_attention"  # our wrapper's and callback's name, and our entry in transformer_options
FEWEST_BLOCKS = 8  # a shorter sequence gains nothing


@dataclass(frozen=True)
class Forward:
    """What one forward pass of the model has in common for all its attention calls."""

    previous: Callable | None  # the override that was on the hook
    others: frozenset[int]
    dense_step: bool


class RadialOverride:
    """An attention override, and the wrapper that puts it on the hook at each forward pass.

    The hook has one slot, which other nodes fill too, before or after ours. So we take it anew at
    each forward, on the pass's own copy of transformer_options, in front of whatever is there;
    calls that we leave dense go to that.
    """

    def __init__(self, pattern: RadialPattern, schedule: Schedule, backend: str):
        self.pattern = pattern
        self.schedule = schedule
        self.backend = backend
        self.tally = Tally()
        self.failure = None  # a kernel that failed is not asked again in the same run

    def wrap_forward(
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
        """Wrapper of BaseModel.apply_model (WrappersMP.APPLY_MODEL)."""
        options = dict(transformer_options or {})
        try:
            self._take_the_hook(
                executor.class_obj.diffusion_model, options, c_crossattn, conditions
            )
        except Exception as error:
            self._fail(error)
        return executor(x, t, c_concat, c_crossattn, control, options, **conditions)

    def _take_the_hook(self, diffusion_model, options: dict, c_crossattn, conditions: dict):
        """Put this override on the hook of a forward pass, if the pass has calls for it."""
        sigmas = _schedule(options)
        step = step_of(sigmas, _first(options.get("sigmas")))
        self.tally.forward(step)
        reason = why_not_forward(diffusion_model, conditions)
        if reason is not None:
            self.tally.dense(reason)
            return
        previous = options.get(SLOT)
        if previous is self:  # a pass within a pass
            previous = options[KEY].previous
        options[KEY] = Forward(
            previous=previous,
            others=other_sequences(c_crossattn, conditions),
            dense_step=self.schedule.is_dense_step(sigmas, step),
        )
        options[SLOT] = self

    def _fail(self, error: Exception):
        """Whatever goes wrong in ours, the render goes on."""
        self.failure = type(error).__name__
        self.tally.dense_calls[self.failure] += 1
        message = "Radial attention failed; the rest of this run is dense. %s: %s"
        details = (self.failure, error)
        self.tally.say_once(self.failure, logging.WARNING, message, *details, exc_info=True)

    @torch.compiler.disable
    def __call__(
        self,
        func,
        q,
        k,
        v,
        heads,
        mask=None,
        attn_precision=None,
        skip_reshape=False,
        skip_output_reshape=False,
        **kwargs,
    ):
        """An attention call: q, k, v are (b, h, s, d) if skip_reshape, else (b, s, h * d)."""
        options = kwargs.get("transformer_options") or {}
        forward = options.get(KEY)
        try:
            plan = self._plan_or_reason(forward, options, q, k, v, mask, skip_reshape)
            if isinstance(plan, str):
                self.tally.dense(plan)
            else:
                split = "b h s d -> b s h d" if skip_reshape else "b s (h d) -> b s h d"
                merge = "b s h d -> b h s d" if skip_output_reshape else "b s h d -> b s (h d)"
                qs, ks, vs = (rearrange(x, split, h=heads) for x in (q, k, v))
                backend = choose_backend(
                    self.backend, q.device, q.dtype, qs.shape[-1], plan.block_size
                )
                out = radial_attention(qs, ks, vs, plan, backend, kwargs.get("scale"))
                self.tally.radial(plan.density, backend)
                return rearrange(out, merge)
        except Exception as error:
            self._fail(error)

        kwargs.update(
            mask=mask,
            attn_precision=attn_precision,
            skip_reshape=skip_reshape,
            skip_output_reshape=skip_output_reshape,
        )
        if forward is not None and forward.previous is not None:
            return forward.previous(func, q, k, v, heads, **kwargs)
        return func(q, k, v, heads, **kwargs)

    def _plan_or_reason(self, forward, options, q, k, v, mask, skip_reshape) -> Plan | str:
        """The plan to run this call with, or why it stays dense."""
        if forward is None:
            return "outside a forward pass"
        tokens = -2 if skip_reshape else 1
        layout = self_attention_layout(options, q.shape[tokens], k.shape[tokens], forward.others)
        if isinstance(layout, str):
            return layout
        if mask is not None:
            return "attention mask"
        if k.shape != q.shape or v.shape != q.shape:
            return "keys have other heads than queries"
        if layout.frames == 1:
            return "single frame"
        if layout.tokens < FEWEST_BLOCKS * self.pattern.block_size:
            return f"only {layout.tokens} tokens"
        if forward.dense_step:
            return "dense step"
        if self.schedule.is_dense_block(options.get("block_index")):
            return "dense block"
        if self.failure is not None:
            return self.failure
        return make_plan(self.pattern, layout, q.device)

    def report(self, _model_patcher):
        """Callback at the end of a sampler run (CallbacksMP.ON_CLEANUP)."""
        self.tally.report()
        self.failure = None


def _schedule(options: dict) -> list[float] | None:
    """The sampler's noise levels. ComfyUI's LoRA training puts other numbers in their place."""
    sigmas = options.get("sample_sigmas")
    if sigmas is None or getattr(comfy.model_management, "in_training", False):
        return None
    return sigmas.flatten().tolist()


def _first(x: torch.Tensor | None) -> float | None:
    return None if x is None or not x.numel() else float(x.detach().flatten()[0])
