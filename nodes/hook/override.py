"""The attention override: sends each call of a model's self-attention where it belongs."""

import logging
from collections import deque
from collections.abc import Callable
from functools import partial

import torch

from ...radial_core import runs
from ...radial_core.call import SIGNALS, Call, call_key, wants_gradients
from ...radial_core.plan import Plan
from ..comfyui import features
from ..comfyui.attention_functions import comfyuis_own, is_comfyuis
from ..comfyui.eight_bit import runs_in_8_bits
from ..comfyui.option_keys import KEY, PREVIOUS
from ..inputs.settings import Settings
from ..run.reasons import NOT_OURS, Reason, Why
from ..run.record import CallEntry, Record
from ..run.run_reporter import RunReporter
from .adaptive import CallLists, RunLists
from .arguments import unknown_arguments
from .block_numbers import says_its_block
from .compute import compute, to_bshd
from .current_pass import CURRENT
from .decision import CallFacts, Dense, NotOurs, Sparse, decide, find_video
from .dense_choice import AUTO, is_beaten, wants_fastest
from .forward_pass import ForwardPass
from .full_attention import Attention, as_before, in_containers, other_attention, run
from .precision import (
    EIGHT_BIT,
    EXACT,
    TRAINING,
    of_comfyuis,
    of_sparse_calls,
    precision_of,
    why_exact,
)
from .run_settings import RunSettings
from .run_state import RunState

# Loaded here, since what torch.compile traces can't import.
compiled = features.load("torch.compile support", ".hook.compiled")
compiled_op = compiled and features.load("torch.compile support", ".hook.compiled_op")

log = logging.getLogger("radial_attention")


class RadialOverride:
    """What stands on ComfyUI's attention hook: an attention call is sparse, or dense as before.

    It is there for the time of a forward pass, by forward_wrapper.py.
    """

    def __init__(
        self,
        settings: Settings,
        backend: str,
        dense_choice: str,
        precision: str,
        node: str | None = None,
    ):
        """node: the id in the graph of the node that made it."""
        self.settings = settings
        self.backend = backend
        self.dense_choice = dense_choice
        self.precision = precision
        self.sparse_precision = of_sparse_calls(precision, backend)
        self.reporter = RunReporter(node)
        self.begin_again()

    def begin_again(self):
        """Forget what was found in this run."""
        settings = RunSettings(self.settings, self.reporter)
        self.run = RunState(settings, RunLists(self.reporter))

    @property
    def runs(self) -> deque[Record]:
        """The last sampler runs, the newest at the end."""
        return self.reporter.runs

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

    @property
    def container_function(self) -> Callable:
        """What ComfyUI newer than 0.30 calls with q, k and v in containers, if there is such a one.

        There is in a pass whose dense calls may go to one. Radial calls gain nothing by it: they
        read q, k and v until the output is done.
        """
        if torch.compiler.is_compiling() or not getattr(CURRENT.forward, "takes_containers", False):
            raise AttributeError("container_function")
        return partial(self, comfyuis_own())

    @torch.compiler.disable
    def _outside_the_graph(self, func, q, k, v, heads, kwargs):
        forward = (kwargs.get("transformer_options") or {}).get(KEY)
        return self.attend(forward, func, q, k, v, heads, kwargs)

    def attend(self, forward: ForwardPass | None, func, q, k, v, heads: int, kwargs: dict):
        """Gather what is known of a call, decide, compute; what is not computed runs as before.

        q, k, v: tensors, or ComfyUI's containers. kwargs: all other arguments of the call, with
        mask, skip_reshape and skip_output_reshape.
        """
        given = q, k, v
        if in_containers(q):
            q, k, v = (x.peek() for x in given)
        entry, decision, out = CallEntry(), None, None
        previous = _previous(forward, kwargs.get("transformer_options") or {})
        other = as_before(func, previous, None)
        try:
            if forward is None:
                decision = Dense(Why(Reason.OUTSIDE_PASS))
            else:
                decision = decide(forward.facts, self._gather(entry, forward, q, k, v, kwargs))
                other = other_attention(
                    decision, func, previous, forward.preferred.get(entry.block)
                )
                self.reporter.pass_by(other.passed_by)
            if isinstance(decision, Sparse):
                out = self._attend_sparse(entry, decision, forward, other, q, k, v, heads, kwargs)
                forward.sparse_blocks.add(entry.block)
            else:
                entry.dense = decision.why
                is_plain = isinstance(decision, Dense) and decision.is_plain
                if is_plain and self._may_be_fast(other):
                    asked = self.precision == EIGHT_BIT and not _stays_exact(forward, q, k, v)
                    backend = self.backend
                    out, entry.backend = compute(decision, q, k, v, heads, kwargs, backend, asked)
        except SIGNALS:
            raise
        except Exception as error:
            if isinstance(decision, Dense):
                self._fast_dense_failed(error)
            else:
                entry.failed(self.fail(error))
        if out is None:
            if not isinstance(decision, NotOurs):
                entry.precision = of_comfyuis(other.func, other.override)
            del q, k, v  # what takes them out of their containers may free them
            out = run(other, *given, heads, kwargs)
        else:
            entry.precision = entry.precision or precision_of(entry.backend)
            if in_containers(given[0]):
                for x in given:
                    x.take()  # the caller keeps the containers
        if forward is None or not forward.ended:
            self.reporter.end_call(entry)
        if forward is not None and not isinstance(decision, NotOurs):
            forward.blocks.add(entry.block)
        return out

    def _gather(self, entry: CallEntry, forward: ForwardPass, q, k, v, kwargs: dict) -> CallFacts:
        """What is known of a call. entry: gets what goes into the record."""
        tokens = forward.facts.tokens
        options = kwargs.get("transformer_options") or {}
        dim = -2 if kwargs["skip_reshape"] else 1
        video = find_video(
            tokens, says_its_block(options), q.shape[dim], k.shape[dim], forward.all_hooked
        )
        entry.step = forward.step
        if isinstance(video, Why) and video.reason in NOT_OURS:
            return CallFacts(video)
        entry.shape = len(q), q.shape[dim], q.numel()
        entry.mark = self.reporter.record.start(q.device)
        forward.self_attention_calls += 1
        if tokens.announced or not isinstance(video, Why):
            entry.block = forward.numbers.of_call(options, as_said=forward.training)
        if isinstance(video, Why) or forward.why_dense is not None:
            return CallFacts(video if isinstance(video, Why) else forward.why_dense)
        return CallFacts(
            video=video,
            block=entry.block,
            device=q.device,
            shapes=(q.shape, k.shape, v.shape),
            absent=self.run.host_values.absent(kwargs["mask"], video.tokens),
            unknown_arguments=unknown_arguments(kwargs),
            # A block that runs again for its gradients must run as it did before the failure.
            failure=None if entry.block in forward.sparse_blocks else self.run.failure,
        )

    def _attend_sparse(
        self, entry: CallEntry, decision: Sparse, forward, other: Attention, q, k, v, heads, kwargs
    ):
        """The output of a sparse call. entry: gets what goes into the record."""
        wanted, stays_exact = self.sparse_precision, _stays_exact(forward, q, k, v)
        approximate = not stays_exact and (
            wanted == EIGHT_BIT
            or wanted == AUTO
            and kwargs.get("low_precision_attention") is not False  # as the model may ask
            and runs_in_8_bits(other.func, other.override)
            and not self._exact_if_dense(other, q, k, v, heads, kwargs)
        )
        # A backend that was named and is not exact can't be kept where the call stays so.
        backend = "auto" if wanted == EIGHT_BIT and not approximate else self.backend
        lists = self._lists(entry, forward)
        out, entry.backend = compute(decision, q, k, v, heads, kwargs, backend, approximate, lists)
        entry.density = decision.plan.density
        if lists is not None:
            entry.density, entry.adaptive = lists.density, lists.adaptive
        entry.precision = precision_of(entry.backend)
        if entry.precision == EXACT and (approximate or wanted == EIGHT_BIT):
            self._say_why_exact(decision.plan, entry.adaptive, stays_exact, q, k, v, heads, kwargs)
        return out

    def _lists(self, entry: CallEntry, forward: ForwardPass) -> CallLists | None:
        """The adaptive lists of a sparse call; None if it is radial."""
        if forward.lists is None:
            return None
        number = forward.sparse_calls[entry.block]
        forward.sparse_calls[entry.block] += 1
        return self.run.lists.of_call(forward.lists, entry.block, number)

    def _exact_if_dense(self, other: Attention, q, k, v, heads, kwargs) -> bool:
        """Whether an exact kernel of ours, not the user's attention, would compute it densely."""
        if not self._may_be_fast(other):
            return False
        return is_beaten(*to_bshd(q, k, v, heads, kwargs["skip_reshape"]))

    def _say_why_exact(
        self, plan: Plan, per_head: bool, stays_exact: bool, q, k, v, heads, kwargs
    ) -> None:
        """Put into the record, once, why calls that might be 8 bit are exact."""
        record = self.reporter.record
        if record.why_exact is None:
            record.why_exact = TRAINING
            if not stays_exact:
                tensors = to_bshd(q, k, v, heads, kwargs["skip_reshape"])
                call = Call(*call_key(*tensors, plan.block_size, per_head=per_head))
                record.why_exact = why_exact(self.backend, call, plan.tokens)

    def _may_be_fast(self, other: Attention) -> bool:
        """Whether a kernel of ours may compute a dense call over a video, in the place of `other`.

        A function that is not ComfyUI's is some pack's, which put it in the place of ComfyUI's.
        """
        is_chosen = other.is_chosen or not is_comfyuis(other.func)
        return self.run.fast_dense_works and wants_fastest(self.dense_choice, is_chosen)

    def _fast_dense_failed(self, error: Exception) -> None:
        """ComfyUI's attention takes the dense calls; the sparse ones go on."""
        self.run.fast_dense_works = False
        message = "The fastest dense kernel failed; ComfyUI's takes its calls. %s"
        self.reporter.say_once("fast dense", logging.WARNING, message, error)

    def fail(self, error: Exception) -> Why:
        """Something of ours failed: the render goes on without it. Returns why it is dense."""
        name = self.run.failure = type(error).__name__
        message = "Radial attention failed; the rest of this run is dense. %s: %s"
        self.reporter.say_once(name, logging.WARNING, message, name, error, exc_info=True)
        self.reporter.record.failures.add(name)
        return Why(Reason.FAILED, name)

    def end_run(self, _model_patcher):
        """Callback at the end of a sampler run (CallbacksMP.ON_CLEANUP)."""
        self.reporter.report()
        try:
            if compiled_op is not None:
                compiled_op.forget(self)
            self.begin_again()
            runs.next_run()
        except Exception:  # the video is done, and must not be lost
            log.exception("Radial attention: what this run left behind stays")


def _stays_exact(forward: ForwardPass, q, k, v) -> bool:
    """Whether a call must be exact, whatever was asked for: it trains a model."""
    return forward.stays_exact or wants_gradients(q, k, v)


def _previous(forward: ForwardPass | None, options: dict) -> Callable | None:
    """The override that a call would have met without ours."""
    return None if forward is None else options.get(PREVIOUS, forward.previous)
