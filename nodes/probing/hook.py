"""The probe: measures chosen attention calls of a run by their own q, k and v, on the spot.

To keep what it measures would take gigabytes: q, k and v of one call of Wan 14B at 720p are 2.3 GB.
"""

import logging
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from comfy.patcher_extension import WrappersMP

from ...radial_core import VideoLayout
from ...radial_core.measure import QueryRows, choose_rows, measure
from ...radial_core.measurements import MeasuredCall, Measurements
from ...radial_core.padding import without_padding
from ...radial_core.schedule import step_of
from ..comfyui import features
from ..comfyui.option_keys import KEY, SLOT
from ..families.registry import (
    OTHERS,
    TokenLayout,
    preset_of,
    self_attention_layout,
    size_of,
    token_layout_of,
    why_no_estimate,
    why_not_forward,
)
from ..hook.forward_pass import BlockNumbers, why_not_arguments, why_not_call
from ..hook.host_values import HostValues
from ..inputs.settings import QUARTER, Settings, runs_all
from .choice import Choice

PROBE = f"{KEY}_probe"  # our wrapper's and callback's name, and our entry in transformer_options
# What is measured in each call, besides the settings that the run has or would have.
DECAYS = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0)
SINKS = (0, 1, 2)
AUTHORS = Settings(None, 1, None, None, None, 128)  # Radial Attention Patch as it comes
POSITIVE, NEGATIVE = 0, 1  # as ComfyUI numbers them in `cond_or_uncond`

log = logging.getLogger("radial_attention")


@dataclass(frozen=True, eq=False)
class Pass:
    """A forward pass whose calls are measured.

    chunk: the place of the prompt to measure, and the number of prompts, in the batch.
    """

    previous: Callable | None  # the override that was on the hook
    sequence: TokenLayout
    step: int
    chunk: tuple[int, int]
    numbers: BlockNumbers


class Run:
    """What was found in one run of a sampler."""

    def __init__(self):
        self.passes = 0
        self.steps = None  # of the sampler
        self.seen = set()  # chosen steps
        self.calls = {}  # (step, block) -> MeasuredCall
        self.reasons = Counter()  # why other calls were not measured
        self.about = {}  # what else Measurements takes
        self.seconds = 0.0

    def measurements(self) -> Measurements | None:
        """None if nothing was measured."""
        if not self.calls:
            return None
        calls = tuple(self.calls[place] for place in sorted(self.calls))
        return Measurements(**self.about, steps=self.steps, calls=calls)


class Probe:
    """A wrapper that puts itself on the attention hook in the passes to be measured.

    What it measures goes on, as it is, to whoever was on the hook.
    """

    def __init__(self, choice: Choice):
        self.choice = choice
        self.latest = None  # the Run that ended last
        self._start_anew()

    def _start_anew(self):
        self.run, self.failed = Run(), False
        self.host_values, self._rows = HostValues(), None

    def wrap_forward(self, executor, *args, **kwargs):
        """Wrapper of BaseModel.apply_model (WrappersMP.APPLY_MODEL).

        It takes the hook behind all other wrappers, wherever this node is in the graph: what Radial
        Attention Patch takes from the hook never reaches those that had it before.
        """
        try:
            executor = self._behind_others(executor)
        except Exception as error:
            self._fail(error)
        return executor(*args, **kwargs)

    def _behind_others(self, executor):
        """The wrappers that come after ours, with our own part behind them."""
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
        options = transformer_options or {}
        try:
            here = self._plan(base, x, options, c_crossattn, conditions)
            if here is not None:
                options = {**options, PROBE: here, SLOT: self}
        except Exception as error:
            self._fail(error)
        return original(x, t, c_concat, c_crossattn, control, options, **conditions)

    def _plan(self, base, x, options: dict, c_crossattn, conditions: dict) -> Pass | None:
        """What to do in a pass; None if nothing in it is to be measured."""
        run, model = self.run, base.diffusion_model
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
        reason = why_not_forward(model, x, options) or why_no_estimate(model)
        compiled = features.load("torch.compile support", ".hook.compiled")
        if reason is None and compiled is not None and compiled.is_compiled(model, options):
            reason = "the model runs under torch.compile: bypass the node that compiles to measure"
        if reason is not None:
            run.reasons[reason] += 1
            return None
        sequence = token_layout_of(model, x, c_crossattn, conditions)
        if not run.about:
            run.about = _about(base, options, sequence.grid[0], sigmas)
        place = prompts.index(POSITIVE) if POSITIVE in prompts else 0
        numbers = BlockNumbers(sequence)
        return Pass(options.get(SLOT), sequence, step, (place, len(prompts)), numbers)

    def _fail(self, error: Exception):
        """Whatever goes wrong in ours, the render goes on."""
        self.run.reasons[f"{type(error).__name__}: {error}"] += 1
        if not self.failed:
            log.warning("Radial probe failed; it measures no more in this run.", exc_info=True)
        self.failed = True

    def __call__(self, func, *args, **kwargs):
        """An attention call: measured, if it is one of those, then run as it would have been."""
        options = kwargs.get("transformer_options") or {}
        here = options.get(PROBE)
        if here is None:
            return func(*args, **kwargs)
        if not self.failed and not torch.compiler.is_compiling():
            try:
                self._listen(here, *args, **kwargs)
            except Exception as error:
                self._fail(error)
        if here.previous is None:
            return func(*args, **kwargs)
        # In a pass within a pass the one before us may have us before it.
        kwargs["transformer_options"] = {**options, PROBE: None}
        return here.previous(func, *args, **kwargs)

    def _listen(
        self,
        here: Pass,
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
        asked = {**kwargs, "attn_precision": attn_precision}
        tokens = -2 if skip_reshape else 1
        layout = self_attention_layout(here.sequence, options, q.shape[tokens], k.shape[tokens])
        if layout in OTHERS:
            return
        block = None if isinstance(layout, str) else here.numbers.of_call(options)
        if block is not None:
            if not self.choice.has_block(block) or (here.step, block) in run.calls:
                return
        absent = () if block is None else self.host_values.absent(mask, layout.tokens)
        reason = layout if block is None else self._why_not(layout, absent, q, k, v)
        reason = reason or why_not_arguments(asked)
        if reason is not None:
            run.reasons[reason] += 1
            return
        start = time.perf_counter()
        if skip_reshape:
            q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        else:
            shape = (*q.shape[:2], heads, q.shape[2] // heads)
            q, k, v = q.view(shape), k.view(shape), v.view(shape)
        place, prompts = here.chunk
        first = place * (q.shape[0] // prompts)
        tensors = tuple(x[first : first + 1] for x in (q, k, v))
        there = replace(layout, prefix=layout.prefix - len(absent))
        rows = self._rows_of(there, q.device)
        scale = kwargs.get("scale")
        if absent:
            with without_padding(tensors, layout.prefix, absent) as closed:
                reading = measure(*(x[0] for x in closed), rows, scale)
        else:
            reading = measure(*(x[0] for x in tensors), rows, scale)
        if not all(map(math.isfinite, reading.error)):
            run.reasons["numbers that are not finite"] += 1
            return
        run.calls[here.step, block] = MeasuredCall(here.step, block, reading)
        run.about.setdefault("layout", there)
        run.about.setdefault("densities", rows.densities)
        run.seconds += time.perf_counter() - start

    def _why_not(self, layout: VideoLayout, absent, q, k, v) -> str | None:
        """Why a self-attention call is not measured; None if it is."""
        if reason := why_not_call(layout, absent, q, k, v):
            return reason
        if layout.frames == 1:
            return "single frame"
        first = self.run.about.get("layout", layout)
        if (layout.frames, layout.tokens_per_frame) != (first.frames, first.tokens_per_frame):
            return "a video of another size than before in the run"
        return None

    def _rows_of(self, layout: VideoLayout, device: torch.device) -> QueryRows:
        key = layout, device
        if self._rows is None or self._rows[0] != key:
            patterns = self.run.about["patterns"]
            rows = choose_rows(layout, patterns, self.choice.tokens).to(device)
            self._rows = key, rows
        return self._rows[1]

    def end(self, _model_patcher):
        """Callback at the end of a sampler run (CallbacksMP.ON_CLEANUP)."""
        run = self.run
        if run.passes:
            self.latest = run
            log.info("Radial probe: %d calls measured, %.1f s", len(run.calls), run.seconds)
        self._start_anew()


def _about(base, options: dict, frames: int, sigmas) -> dict:
    """The size of the model, the settings it runs with or would, and what to measure it for."""
    patched = options.get(KEY)
    if patched is not None:
        pattern, schedule = patched.pattern, patched.schedule
        whose = "Radial Attention Patch"
    else:
        quarter = float(base.model_sampling.percent_to_sigma(QUARTER))
        preset = preset_of(base.diffusion_model, runs_all(sigmas, quarter))
        pattern, schedule = AUTHORS.of(preset, frames, sigmas, quarter)
        whose = f"the preset for {preset.name}"
    decays = sorted({*DECAYS, pattern.decay})
    sinks = sorted({*SINKS, pattern.sink_frames})
    patterns = tuple(replace(pattern, decay=d, sink_frames=s) for s in sinks for d in decays)
    size = size_of(base.diffusion_model)
    return {
        "size": size,
        "patterns": patterns,
        "current": patterns.index(pattern),
        "dense_blocks": min(schedule.dense_blocks, size.blocks),
        "settings_of": whose,
    }


def probe_of(model) -> Probe | None:
    """What Radial Attention Probe put into a MODEL; None if it never went through that node."""
    wrappers = model.get_wrappers(WrappersMP.APPLY_MODEL, PROBE)
    return wrappers[0].__self__ if wrappers else None
