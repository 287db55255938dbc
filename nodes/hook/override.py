"""The hook: sends a model's self-attention through the radial core, one call at a time."""

import logging
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import torch
from comfy.patcher_extension import WrappersMP

from ...radial_core import Plan, make_plan, runs
from ...radial_core.attention import attend
from ...radial_core.call import SIGNALS
from ...radial_core.padding import with_padding, without_padding
from ...radial_core.plan import MOST_DENSITY
from ...radial_core.schedule import step_of
from ..comfyui import features
from ..comfyui.attention_functions import is_comfyuis
from ..comfyui.option_keys import BLOCK, IN_PARTS, KEY, PREVIOUS, SLOT
from ..comfyui.state import is_training
from ..families.registry import (
    OTHERS,
    preset_of,
    self_attention_layout,
    token_layout_of,
    why_not_forward,
)
from ..inputs.settings import QUARTER, Settings, runs_all
from ..run.record import Record, Span
from ..run.run_reporter import RunReporter
from .block_hooks import hooked_blocks
from .current_pass import in_pass
from .dense_choice import AUTO, attend_fast, wants_fastest
from .forward_pass import Dense, Forward, hook_before_ours, why_not_arguments, why_not_call
from .host_values import HostValues

# Loaded here, since what torch.compile traces can't import.
compiled = features.load("torch.compile support", ".hook.compiled")
compiled_op = compiled and features.load("torch.compile support", ".hook.compiled_op")

log = logging.getLogger("radial_attention")


class RadialOverride:
    """An attention override, and the wrapper that puts it on the hook at each forward pass.

    The hook has one slot, which other nodes fill too, before or after ours. So we take it anew at
    each forward, on the pass's own copy of transformer_options, in front of whatever is there;
    calls that we leave dense go to that.
    """

    def __init__(
        self, settings: Settings, backend: str, dense_choice: str, node: str | None = None
    ):
        """node: the id in the graph of the node that this is the work of."""
        self.settings = settings
        self.backend = backend
        self.dense_choice = dense_choice
        self.reporter = RunReporter(node)
        self.start_anew()

    @property
    def runs(self) -> deque[Record]:
        """The last sampler runs, the newest at the end."""
        return self.reporter.runs

    def start_anew(self):
        """Forget the run that ended."""
        self.failure = None  # a kernel that failed is not asked again in the same run
        self.fast_dense_works = True
        self.host_values = HostValues()

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
        base, forward, span = executor.class_obj, None, Span()
        try:
            if options.get(SLOT) is not self:  # a pass within a pass, which is timed
                span.mark = self.reporter.record.start(x.device)
            forward = self._take_the_hook(span, base, x, options, c_crossattn, conditions)
            if forward is not None and _is_compiled(base.diffusion_model, options):
                conditions[KEY] = compiled.mark(options, base.diffusion_model)
                self.reporter.record.compiled = True
        except Exception as error:
            span.failed(self._fail(error))
        hooked = self._hooked(forward, base, conditions)
        fused = self._fused(forward, base, x, conditions)
        try:
            with in_pass(forward, options), hooked, fused as span.fused:
                return executor(x, t, c_concat, c_crossattn, control, options, **conditions)
        finally:
            if forward is not None:
                forward.ended = True
            self.reporter.end_forward(span)

    def _hooked(self, forward: Forward | None, base, conditions: dict):
        """Hooks on the blocks of a pass that is ours; compiled.py has those of a compiled model."""
        if forward is None or KEY in conditions:
            return nullcontext()
        return hooked_blocks(forward, base.diffusion_model)

    def _fused(self, forward: Forward | None, base, x, conditions: dict):
        """On a GPU the blocks of a pass that is ours are fused, unless torch.compile does that."""
        if forward is None or KEY in conditions or x.device.type != "cuda":
            return nullcontext()
        blocks = features.load("fused blocks", ".fused_blocks")
        return nullcontext() if blocks is None else blocks.fused_blocks(base.diffusion_model)

    def _take_the_hook(
        self, span: Span, base, x, options: dict, c_crossattn, conditions: dict
    ) -> Forward | None:
        """Put this override on the hook of a forward pass, if the pass has calls for it."""
        previous, model = hook_before_ours(options), base.diffusion_model
        for name in (BLOCK, IN_PARTS, PREVIOUS):  # of the block that this is a pass within
            options.pop(name, None)
        sigmas = self.host_values.schedule(options)
        step = step_of(sigmas, self.host_values.sigma(options))
        span.step = self.reporter.record.forward(step, x)
        span.dense = why_not_forward(model, x, options)
        if span.dense is not None:
            return None
        sequence = token_layout_of(model, x, c_crossattn, conditions)
        quarter = self._quarter(base)
        authors = preset_of(model, runs_all(sigmas, quarter))
        pattern, schedule = self.settings.of(authors, sequence.grid[0], sigmas, quarter)
        self.reporter.record.use(
            pattern, schedule, authors.name if self.settings.automatic else None
        )
        options[KEY] = forward = Forward(
            override=self,
            previous=previous,
            sequence=sequence,
            pattern=pattern,
            schedule=schedule,
            step=span.step,
            dense_step=schedule.is_dense_step(sigmas, step),
            fast_dense=wants_fastest(self.dense_choice, previous),
            training=is_training(),
        )
        options[SLOT] = self
        return forward

    def _fail(self, error: Exception) -> str:
        """Whatever goes wrong in ours, the render goes on. Returns why it goes on dense."""
        self.failure = type(error).__name__
        message = "Radial attention failed; the rest of this run is dense. %s: %s"
        details = (self.failure, error)
        self.reporter.say_once(self.failure, logging.WARNING, message, *details, exc_info=True)
        self.reporter.record.failures.add(self.failure)
        return self.failure

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
        kwargs.update(
            mask=mask,
            attn_precision=attn_precision,
            skip_reshape=skip_reshape,
            skip_output_reshape=skip_output_reshape,
        )
        if torch.compiler.is_compiling():
            if compiled_op is not None and compiled.why_not(func, q, k, v, kwargs) is None:
                return compiled_op.traced(func, q, k, v, heads, **kwargs)
            return self._outside_the_graph(func, q, k, v, heads, kwargs)
        forward = (kwargs.get("transformer_options") or {}).get(KEY)
        return self.attend(forward, func, q, k, v, heads, kwargs)

    @torch.compiler.disable
    def _outside_the_graph(self, func, q, k, v, heads, kwargs):
        forward = (kwargs.get("transformer_options") or {}).get(KEY)
        return self.attend(forward, func, q, k, v, heads, kwargs)

    def attend(self, forward: Forward | None, func, q, k, v, heads: int, kwargs: dict):
        """A call of a forward pass: radial, dense by the fastest kernel, or as it was before."""
        span, out = Span(), None
        try:
            out = self._attend(span, forward, func, q, k, v, heads, kwargs)
            if out is not None:
                if span.dense is None:
                    forward.radial.add(span.block)
                out = out.transpose(1, 2) if kwargs["skip_output_reshape"] else out.flatten(2)
        except SIGNALS:
            raise
        except Exception as error:
            out = None
            span.failed(self._fail(error))
        if out is None:
            previous = _previous(forward, kwargs.get("transformer_options") or {})
            run = func if previous is None else partial(previous, func)
            out = run(q, k, v, heads, **kwargs)
        if forward is None or not forward.ended:
            self.reporter.end_call(span)
        return out

    def _attend(self, span: Span, forward, func, q, k, v, heads, kwargs) -> torch.Tensor | None:
        """The output (b, s, h, d) of a call that we take; None if it runs as before."""
        todo, prefix, absent = self._decide(span, forward, q, k, v, kwargs)
        if isinstance(todo, Dense):
            span.dense = todo.reason
            if not (todo.plain and self._may_be_fast(forward, func)):
                return None
        if torch.is_autocast_enabled(q.device.type):  # in training: as torch's own attention does
            dtype = torch.get_autocast_dtype(q.device.type)
            q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
        if kwargs["skip_reshape"]:
            q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        else:
            shape = (*q.shape[:2], heads, q.shape[2] // heads)
            q, k, v = q.view(shape), k.view(shape), v.view(shape)
        if not absent:
            return self._run(span, todo, q, k, v, kwargs.get("scale"))
        with without_padding((q, k, v), prefix, absent) as tensors:
            out = self._run(span, todo, *tensors, kwargs.get("scale"))
        return None if out is None else with_padding(out, prefix, absent)

    def _run(self, span: Span, todo: Plan | Dense, q, k, v, scale) -> torch.Tensor | None:
        """The output of q, k, v (b, s, h, d); None if ComfyUI's dense attention is as good."""
        if isinstance(todo, Plan):
            out, _, span.backend = attend(q, k, v, todo, self.backend, scale)
            span.density = todo.density
            return out
        try:
            out, span.backend = attend_fast(q, k, v, scale)
        except SIGNALS:
            raise
        except Exception as error:  # no reason to be dense in the calls that are not
            self.fast_dense_works, out = False, None
            message = "The fastest dense kernel failed; ComfyUI's takes its calls. %s"
            self.reporter.say_once("fast dense", logging.WARNING, message, error)
        return out

    def _may_be_fast(self, forward: Forward, func: Callable) -> bool:
        """Whether a dense call of the video may run another exact kernel than ComfyUI's."""
        if self.dense_choice == AUTO and not is_comfyuis(func):
            return False  # some pack put an attention of its own in the place of ComfyUI's
        return self.fast_dense_works and forward.fast_dense

    def _decide(
        self, span: Span, forward: Forward | None, q, k, v, kwargs
    ) -> tuple[Plan | Dense, int, tuple[int, ...]]:
        """The plan to run a call with, or why it stays dense; tokens in front of the video; which
        of them are padding, and no part of the plan."""
        if forward is None:
            return Dense("outside a forward pass"), 0, ()
        options = kwargs.get("transformer_options") or {}
        tokens = -2 if kwargs["skip_reshape"] else 1
        layout = self_attention_layout(forward.sequence, options, q.shape[tokens], k.shape[tokens])
        span.step = forward.step
        if layout in OTHERS:
            return Dense(layout), 0, ()
        span.shape, span.mark = (len(q), q.shape[tokens]), self.reporter.record.start(q.device)
        forward.self_attention_calls += 1
        is_ours = not isinstance(layout, str)
        if is_ours or forward.sequence.announced:
            span.block = forward.numbers.of_call(options, as_said=forward.training)
        if not is_ours:
            return Dense(layout), 0, ()
        absent = self.host_values.absent(kwargs["mask"], layout.tokens)
        reason = why_not_arguments(kwargs) or why_not_call(layout, absent, q, k, v)
        if reason is not None:
            return Dense(reason), 0, ()
        there = replace(layout, prefix=layout.prefix - len(absent))
        return self._plan_or_dense(forward, there, span.block, q.device), layout.prefix, absent

    def _plan_or_dense(self, forward: Forward, layout, block, device) -> Plan | Dense:
        if self.failure is not None and block not in forward.radial:
            return Dense(self.failure)
        if layout.frames == 1:
            return Dense("single frame", plain=True)
        if forward.dense_step:
            return Dense("dense step", plain=True)
        if forward.schedule.is_dense_block(block):
            return Dense("dense block", plain=True)
        plan = make_plan(forward.pattern, layout, device)
        if plan.density > MOST_DENSITY:
            return Dense(f"{plan.density:.0%} of the blocks would be kept", plain=True)
        return plan

    def report(self, _model_patcher):
        """Callback at the end of a sampler run (CallbacksMP.ON_CLEANUP)."""
        self.reporter.report()
        try:
            if compiled_op is not None:
                compiled_op.forget(self)
            self.start_anew()
            runs.next_run()
        except Exception:  # the video is done, and must not be lost
            log.exception("Radial attention: what this run left behind stays")

    def _quarter(self, base) -> float:
        """The noise level a quarter down the model's schedule; 0 where nobody asks or can tell."""
        try:
            level = base.model_sampling.percent_to_sigma(QUARTER) if self.settings.automatic else 0
            return float(level)
        except Exception as error:
            self.reporter.say_once("quarter", logging.INFO, "No noise schedule to go by: %s", error)
            return 0.0


def _is_compiled(diffusion_model, options: dict) -> bool:
    return compiled is not None and compiled.is_compiled(diffusion_model, options)


def _previous(forward: Forward | None, options: dict) -> Callable | None:
    """The override that a call would have met without ours."""
    return None if forward is None else options.get(PREVIOUS, forward.previous)


def override_of(model) -> RadialOverride | None:
    """What Radial Attention Patch put into a MODEL; None if it never went through that node."""
    wrappers = model.get_wrappers(WrappersMP.APPLY_MODEL, KEY)
    return wrappers[0].__self__ if wrappers else None
