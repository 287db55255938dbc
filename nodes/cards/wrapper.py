"""Splits the forward passes of a MODEL among cards: what Radial Multi-GPU puts on it."""

import itertools
import logging
import traceback
import weakref
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial

import torch
from comfy.model_management import (
    InterruptProcessingException,
    throw_exception_if_processing_interrupted,
)

from ..comfyui import page
from ..comfyui.latents import video_of
from ..comfyui.option_keys import KEY
from ..families.registry import unwrapped
from ..hook.attach import override_of
from ..run import gpus_text
from ..run.stopwatch import Stopwatch
from .cargo import NotSendable, pack, specs
from .devices import cards_of
from .figures import Passes, figures
from .messages import EndRun, Pass
from .pass_call import innermost, options_of, pass_call
from .radial import radial_pass
from .replicas import TooLarge, update_replicas
from .split_pass import NotSplit, SplitPass
from .team import Lost, Team, team_of
from .why_not import why_not_model, why_not_pass

log = logging.getLogger("radial_attention")

EVENT = "radial_attention.cards"  # {"node": its id, "status": what it shall say}
PASS, EXCHANGE = "pass", "exchange"  # what is timed: split passes, and waiting for other cards

_runs = itertools.count()


class _OneCard(Exception):
    """A run is on one card. The text says why, for people."""


class _Run:
    """A sampler run. why_one: why it is on one card from now on; None if it is not."""

    def __init__(self):
        self.number = next(_runs)
        self.team: Team | None = None
        self.keys = weakref.WeakKeyDictionary()  # BaseModel -> that of its replicas
        self.why_one: str | None = None
        self.why_fewer: str | None = None  # why there are fewer cards than asked for
        self.said: dict[str, None] = {}  # an ordered set: why single passes are on one card
        self.override = None  # Radial Attention Patch's, if the MODEL has it
        self.one_card_passes, self.split_passes = 0, 0
        self.seconds = {PASS: 0.0, EXCHANGE: 0.0}
        self.stopwatch = Stopwatch(self._timed)

    def _timed(self, key: str, seconds: float) -> None:
        self.seconds[key] += seconds

    def passes(self) -> Passes:
        self.stopwatch.collect(wait=True)
        number = self.one_card_passes + self.split_passes
        seconds = self.seconds[PASS], self.seconds[EXCHANGE]
        return Passes(number, self.split_passes, *seconds, tuple(self.said), self.why_one)

    def end_of_others(self) -> list[dict | None]:
        """What the other cards say of the run; none if they can't."""
        if not self.split_passes or self.team.why_lost is not None:
            return []
        try:
            return self.team.ask(EndRun(self.number))
        except Lost as error:
            log.warning("Radial Multi-GPU: %s", error)
            return []


class SplitWrapper:
    """Wrapper of BaseModel.apply_model (WrappersMP.APPLY_MODEL), around all others."""

    def __init__(self, gpus: int, node: str | None = None):
        """gpus: how many cards; 0 for all. node: the id in the graph of the node that asks."""
        self.gpus, self.node = gpus, node
        self.run = _Run()
        self.refused = weakref.WeakKeyDictionary()  # BaseModel -> why it can't be split after all

    def __call__(self, executor, x, t, *given, **named):
        base = executor.class_obj
        options = named.get("transformer_options") or (given[3] if len(given) > 3 else None) or {}
        call = partial(executor, x, t, *given, **named)
        team = self._team(base, video_of(x, named), options)
        if team is None:
            self.run.one_card_passes += 1
            return call()
        try:
            with self._innermost_split(team, base):
                return call()
        except InterruptProcessingException:
            raise
        except Exception as error:
            failed = error
        _let_go(failed)  # the same pass may need that memory
        return self._again(team, base, call, failed)

    def _again(self, team: Team, base, call: Callable, failed: Exception):
        """A pass on one card, after it failed on several; so are the others of the run.

        If that fails too, it is no fault of the split, and raises.
        """
        lost = team.why_lost
        if lost is not None:
            self._one_card(lost, ". The run goes on without the others")
        self.run.one_card_passes += 1
        if self.run.override is not None:
            self.run.override.begin_again()
        out = call()
        if lost is None or isinstance(failed, NotSplit):
            # Another card may have said so first, and have been lost by it.
            self.refused[base] = why = _in_words(failed)
        if lost is None:
            log.info("Radial Multi-GPU: a pass failed", exc_info=failed)
            self._one_card(why)
        return out

    def _team(self, base, x: torch.Tensor, options: dict) -> Team | None:
        """The cards that compute a pass, with the model on all of them; None if it is one."""
        run = self.run
        if run.why_one is None and not self._is_there(base):
            try:
                run.override = override_of(base.current_patcher)
                run.keys[base] = self._gather_cards(base, x, options)
            except InterruptProcessingException:
                raise
            except (_OneCard, Lost, TooLarge, NotSendable) as error:
                self._one_card(str(error))
            except Exception as error:  # whatever it is, one card can compute
                log.info("Radial Multi-GPU: no start", exc_info=True)
                self._one_card(_in_words(error))
        return run.team if run.why_one is None else None

    def _is_there(self, base) -> bool:
        """Whether the other cards have the model as it is now.

        Another model of the run may have taken its room. And whoever samples without telling the
        end of a run begins the next one in it, maybe with another LoRA.
        """
        run = self.run
        if base not in run.keys or base.current_patcher is None:
            return False
        return run.team.replicas.get(run.keys[base]) == base.current_patcher.patches_uuid

    def _gather_cards(self, base, x: torch.Tensor, options: dict) -> int:
        """Start what must start, and give all cards the model. -> the key of its replicas."""
        devices, why_fewer = cards_of(x.device, self.gpus)
        if len(devices) == 1:
            raise _OneCard(why_fewer or "no more were asked for")
        if why_fewer is not None:
            self.run.why_fewer = why_fewer
            log.warning("Radial Multi-GPU: %s", why_fewer)
        why = self.refused.get(base) or why_not_model(base, options, len(devices))
        if why is not None:
            raise _OneCard(why)
        if self.run.team is None:
            self.run.team = team_of(devices)
        self.run.team.wait_until_ready(throw_exception_if_processing_interrupted)
        return update_replicas(self.run.team, base, _bytes_of_pass(base, x) // len(devices))

    def _one_card(self, why: str, more: str = "") -> None:
        self.run.why_one = why
        log.warning("Radial Multi-GPU: one GPU: %s%s", why, more)

    def _say_once(self, why: str) -> None:
        if why not in self.run.said:
            self.run.said[why] = None
            log.warning("Radial Multi-GPU: passes run on one GPU: %s", why)

    @contextmanager
    def _innermost_split(self, team: Team, base):
        """The model's innermost forward computes with the other cards."""
        model = unwrapped(base.diffusion_model)
        name = innermost(model)
        setattr(model, name, partial(self._split, team, base, getattr(model, name)))
        try:
            yield
        finally:
            vars(model).pop(name, None)  # another thread's pass may have taken it

    def _split(self, team: Team, base, forward: Callable, *args, **kwargs):
        """A forward pass on all cards."""
        run, key = self.run, self.run.keys[base]
        _, options = options_of(forward, args, kwargs)
        why = why_not_pass(base.diffusion_model, options, kwargs.get("control"))
        if why is None:
            try:
                radial = radial_pass(options.get(KEY), run.number)
                call = pass_call(forward, args, kwargs, radial)
                cargo, tensors = pack(call, team.devices[0])
            except NotSendable as error:
                why = str(error)
        if why is not None:
            self._say_once(why)
            run.one_card_passes += 1
            return forward(*args, **kwargs)
        mark = run.stopwatch.start(team.devices[0])
        with team.together():
            team.connect()
            team.begin(Pass(key, cargo, specs(tensors)))
            for x in tensors:
                self._timed(team, team.group.broadcast, x)
            split = SplitPass(base.diffusion_model, team.group, partial(self._timed, team))
            args, kwargs = call.arguments(split.options(options))
            with split.hooked():
                out = forward(*args, **kwargs)
            team.finish()
            team.answers()
        run.stopwatch.stop(mark, PASS)
        run.split_passes += 1
        return out

    def _timed(self, team: Team, function: Callable, *arguments):
        mark = self.run.stopwatch.start(team.devices[0])
        result = team.timed(function, *arguments)
        self.run.stopwatch.stop(mark, EXCHANGE)
        return result

    def end_run(self, _patcher) -> None:
        """Callback at the end of a sampler run (CallbacksMP.ON_CLEANUP)."""
        run, self.run = self.run, _Run()
        try:
            devices = run.team.devices if run.split_passes else []
            found = figures(devices, run.passes(), run.end_of_others(), run.why_fewer)
            if not found["passes"]:
                return
            if run.override is not None:
                run.override.reporter.record.gpus = found
            status = gpus_text.status(found)
            log.info("Radial Multi-GPU: %s", status)
            page.send(EVENT, {"node": self.node, "status": status})
        except Exception:  # the video is done, and must not be lost
            log.exception("Radial Multi-GPU: no figures of this run")


def _in_words(error: Exception) -> str:
    return str(error) if isinstance(error, NotSplit) else f"{type(error).__name__}: {error}"


def _let_go(error: BaseException | None) -> None:
    """What the calls that an error went through still hold, such as the tensors of a pass."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _bytes_of_pass(base, x: torch.Tensor) -> int:
    """What ComfyUI expects a pass to take, besides weights; 0 if it can't say."""
    try:
        return int(base.memory_required(list(x.shape)))
    except Exception:
        return 0
