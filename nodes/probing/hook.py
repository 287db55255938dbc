"""The probe: measures chosen attention calls of a run while they run.

Keeping q, k and v for later would take gigabytes: 2.3 GB for one call of Wan 14B at 720p.
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from comfy.patcher_extension import CallbacksMP, WrappersMP

from ...radial_core import VideoLayout
from ...radial_core.measurements import MeasuredCall
from ...radial_core.padding import without_padding
from ...radial_core.schedule import step_of
from ..comfyui import features
from ..comfyui.latents import video_of
from ..comfyui.option_keys import KEY, SLOT
from ..families.base import TokenLayout
from ..families.registry import token_layout_of, why_no_estimate
from ..families.transformer_blocks import transformer_blocks
from ..hook.arguments import unknown_arguments
from ..hook.block_hooks import Hook
from ..hook.block_numbers import BlockNumbers, says_its_block
from ..hook.compute import to_bshd
from ..hook.decision import CallFacts, find_video, layout_without_padding, why_never_sparse
from ..hook.forward_pass import reordered, why_all_dense
from ..hook.host_values import HostValues
from ..hook.token_order import TokenOrder
from ..run.reasons import NOT_OURS, Reason, Why
from .call_reader import CallReader
from .choice import Choice
from .probe_run import ProbeRun, about

PROBE = f"{KEY}_probe"  # our wrapper's and callback's name, and our entry in transformer_options
POSITIVE, NEGATIVE = 0, 1  # as ComfyUI numbers them in `cond_or_uncond`

log = logging.getLogger("radial_attention")


@dataclass(eq=False)
class MeasuredPass:
    """A forward pass whose calls are measured.

    previous: the override that was on the hook. chunk: the place in the batch of the prompt to
    measure, and the number of prompts. why_not: why no call of it can be measured after all.
    """

    previous: Callable | None
    tokens: TokenLayout
    step: int
    chunk: tuple[int, int]
    numbers: BlockNumbers
    why_not: Why | None = None


class Probe:
    """A wrapper that puts itself on the attention hook in the passes to be measured.

    A call that it measures goes on, unchanged, to whoever was on the hook.
    """

    def __init__(self, choice: Choice):
        self.choice = choice
        self.latest = None  # the `ProbeRun` that ended last
        self._begin_run()

    def _begin_run(self):
        self.run, self.failed = ProbeRun(), False
        self.host_values, self._reader = HostValues(), None

    def wrap_forward(self, executor, *args, **kwargs):
        """Wrapper of BaseModel.apply_model (WrappersMP.APPLY_MODEL).

        It takes the hook after all other wrappers, wherever this node is in the graph: calls that
        Radial Attention Patch takes never reach the override that was on the hook before it.
        """
        try:
            executor = self._after_others(executor)
        except Exception as error:
            self._fail(error)
        return executor(*args, **kwargs)

    def _after_others(self, executor):
        """The wrappers that come after ours, with our own part after them."""
        from comfy.patcher_extension import WrapperExecutor

        base = executor.class_obj
        last = partial(self._pass, base, executor.original)
        return WrapperExecutor.new_class_executor(last, base, executor.wrappers, executor.idx)

    def _pass(
        self,
        base,
        original,
        x,
        t,
        c_concat=None,
        c_crossattn=None,
        control=None,
        transformer_options=None,
        **conditions,
    ):
        options, handle = transformer_options or {}, None
        try:
            measured = self._choose(base, x, options, c_crossattn, conditions)
            if measured is not None:
                options = {**options, PROBE: measured, SLOT: self}
                handle = self._hook_first_block(measured, base.diffusion_model)
        except Exception as error:
            self._fail(error)
        try:
            return original(x, t, c_concat, c_crossattn, control, options, **conditions)
        finally:
            if handle is not None:
                handle.remove()

    def _hook_first_block(self, measured: MeasuredPass, diffusion_model):
        """Returns the hook's handle; None without blocks."""
        for place, block in transformer_blocks(diffusion_model):
            if place == 0 and getattr(block, "_compiled_call_impl", None) is None:
                check = Hook(self._check_order, measured, diffusion_model)
                return block.register_forward_pre_hook(check, with_kwargs=True)
        return None

    def _check_order(self, measured: MeasuredPass, diffusion_model, _block, args, kwargs) -> None:
        """A forward pre-hook: whether the tokens come in order."""
        if self.failed or torch.compiler.is_compiling():
            return
        try:
            if TokenOrder().is_wrong(measured.tokens, (*args, *kwargs.values())):
                measured.why_not = reordered(diffusion_model)
        except Exception as error:
            self._fail(error)

    def _choose(self, base, x, options: dict, c_crossattn, conditions: dict) -> MeasuredPass | None:
        """The pass, if its calls are to be measured."""
        run, model, x = self.run, base.diffusion_model, video_of(x, conditions)
        run.passes += 1
        sigmas = self.host_values.schedule(options)
        step = step_of(sigmas, self.host_values.sigma(options))
        prompts = options.get("cond_or_uncond") or [POSITIVE]
        if step is None or step in run.seen or set(prompts) == {NEGATIVE}:
            return None
        run.steps = len(sigmas) - 1
        if not self.choice.has_step(step, run.steps):
            return None
        run.seen.add(step)
        why = why_all_dense(model, x, options) or why_no_estimate(model)
        compiled = features.load("torch.compile support", ".hook.compiled")
        if why is None and compiled is not None and compiled.is_compiled(model, options):
            why = Why(Reason.COMPILED)
        if why is not None:
            run.reasons[why] += 1
            return None
        tokens = token_layout_of(model, x, c_crossattn, conditions)
        if not run.about:
            run.about = about(base, options, tokens.grid[0], sigmas)
            what = (run.about[name] for name in ("patterns", "current", "budgets"))
            self._reader = CallReader(*what, self.choice.tokens)
        chunk = prompts.index(POSITIVE) if POSITIVE in prompts else 0, len(prompts)
        return MeasuredPass(options.get(SLOT), tokens, step, chunk, BlockNumbers(tokens))

    def _fail(self, error: Exception):
        """Something of ours failed: the render goes on without it."""
        self.run.reasons[Why(Reason.FAILED, f"{type(error).__name__}: {error}")] += 1
        if not self.failed:
            log.warning("Radial probe failed; it measures no more in this run.", exc_info=True)
        self.failed = True

    def __call__(self, func, *args, **kwargs):
        """An attention call: measured if it is to be, then run as it would have been."""
        options = kwargs.get("transformer_options") or {}
        measured = options.get(PROBE)
        if measured is None:
            return func(*args, **kwargs)
        if not self.failed and not torch.compiler.is_compiling():
            try:
                self._listen(measured, *args, **kwargs)
            except Exception as error:
                self._fail(error)
        if measured.previous is None:
            return func(*args, **kwargs)
        # In a pass within a pass, the override before ours may call us again.
        kwargs["transformer_options"] = {**options, PROBE: None}
        return measured.previous(func, *args, **kwargs)

    def _listen(
        self,
        measured: MeasuredPass,
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
        """Measure a call if it is to be: q, k, v are (b, h, s, d) if skip_reshape, else
        (b, s, h * d)."""
        run, options = self.run, kwargs["transformer_options"]
        dim = -2 if skip_reshape else 1
        in_block = says_its_block(options)
        video = find_video(measured.tokens, in_block, q.shape[dim], k.shape[dim])
        if isinstance(video, Why):
            if video.reason not in NOT_OURS:
                run.reasons[video] += 1
            return
        block = measured.numbers.of_call(options)
        if not self.choice.has_block(block) or (measured.step, block) in run.calls:
            return
        call = CallFacts(
            video=video,
            block=block,
            device=q.device,
            shapes=(q.shape, k.shape, v.shape),
            absent=self.host_values.absent(mask, video.tokens),
            unknown_arguments=unknown_arguments({**kwargs, "attn_precision": attn_precision}),
        )
        if why := measured.why_not or why_never_sparse(call) or self._why_other_size(video):
            run.reasons[why] += 1
            return
        start = time.perf_counter()
        tensors = to_bshd(q, k, v, heads, skip_reshape)
        reading = self._measure(call, tensors, measured.chunk, kwargs.get("scale"))
        if not all(map(math.isfinite, reading.error)):
            run.reasons[Why(Reason.NOT_FINITE)] += 1
            return
        run.calls[measured.step, block] = MeasuredCall(measured.step, block, reading)
        run.seconds += time.perf_counter() - start

    def _measure(self, call: CallFacts, tensors, chunk: tuple[int, int], scale: float | None):
        """Measure a call's q, k and v (b, s, h, d), of the prompt to measure."""
        place, prompts = chunk
        first = place * (len(tensors[0]) // prompts)
        tensors = tuple(x[first : first + 1] for x in tensors)
        layout, reader = layout_without_padding(call.video, call.absent), self._reader
        if call.absent:
            with without_padding(tensors, call.video.prefix, call.absent) as closed:
                reading = reader.read(*(x[0] for x in closed), layout, scale)
        else:
            reading = reader.read(*(x[0] for x in tensors), layout, scale)
        if all(map(math.isfinite, reading.error)):
            known = self.run.about
            known.setdefault("layout", layout)
            known.setdefault("densities", reader.densities)
            known["budgets"], known["why_not_adaptive"] = reader.budgets, reader.why_not_adaptive
        return reading

    def _why_other_size(self, video: VideoLayout) -> Why | None:
        """Why a video can't be measured with those before it in the run; None if it can."""
        first = self.run.about.get("layout", video)
        if (video.frames, video.tokens_per_frame) != (first.frames, first.tokens_per_frame):
            return Why(Reason.OTHER_SIZE)
        return None

    def end(self, _model_patcher):
        """Callback at the end of a sampler run (CallbacksMP.ON_CLEANUP)."""
        run = self.run
        if run.passes:
            self.latest = run
            log.info("Radial probe: %d calls measured, %.1f s", len(run.calls), run.seconds)
        self._begin_run()


def attach(model, probe: Probe) -> None:
    """Put a probe on a MODEL, in place of an earlier one."""
    model.remove_wrappers_with_key(WrappersMP.APPLY_MODEL, PROBE)
    model.remove_callbacks_with_key(CallbacksMP.ON_CLEANUP, PROBE)
    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, PROBE, probe.wrap_forward)
    model.add_callback_with_key(CallbacksMP.ON_CLEANUP, PROBE, probe.end)
    model.set_attachments(PROBE, probe)


def probe_of(model) -> Probe | None:
    """What Radial Attention Probe put into a MODEL; None if it never went through that node."""
    return model.get_attachment(PROBE)
