"""What a process of another card does: it keeps replicas, and computes its share of each pass."""

import logging
import os
import queue
import threading
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import comfy.model_management
import torch

from ...radial_core.ulysses.group import CardGroup, connect
from . import replica
from .cargo import Spec, unpack
from .messages import Answer, Connect, EndRun, Forget, Leave, Pass, Replica, Room, Weight
from .pass_call import innermost
from .radial import RadialRuns
from .split_pass import Done, SplitPass

log = logging.getLogger("radial_attention")


def run(pipe: Connection, device: str, rank: int, size: int) -> None:
    """Obey until ComfyUI's process ends."""
    worker = Worker(torch.device(device), rank, size)
    threading.Thread(target=_listen, args=(pipe, worker), daemon=True).start()
    pipe.send((0, Answer(None)))
    while True:
        number, message = worker.messages.get()
        try:
            answer = Answer(None, worker.obey(number, message))
        except Exception as error:
            log.debug("Ended early", exc_info=True)
            answer = Answer(f"{type(error).__name__}: {error}")
        if not isinstance(message, Forget | Leave):
            pipe.send((number, answer))
        if answer.error is not None:
            worker.leave()  # after the answer, which says more than a broken group


def _listen(pipe: Connection, worker: "Worker") -> None:
    """Hand on what comes; the end of the pipe is the end of this process."""
    while True:
        try:
            number, message = pipe.recv()
        except (EOFError, OSError):
            os._exit(0)
        if isinstance(message, Leave):
            worker.left = number
            worker.leave()  # whoever waits in the group is freed
        worker.messages.put((number, message))


class Left(Exception):
    """What a message asked for is no longer wanted."""


class Worker:
    def __init__(self, device: torch.device, rank: int, size: int):
        if device.type == "cuda":
            torch.cuda.set_device(device)
        self.device, self.rank, self.size = device, rank, size
        self.messages = queue.SimpleQueue()  # (number, message)
        self.left = 0  # what messages with lower numbers ask for is not wanted
        self.group: CardGroup | None = None
        self.models: dict[int, torch.nn.Module] = {}  # the one used last is the last
        self.runs = RadialRuns()

    @torch.inference_mode()
    def obey(self, number: int, message):
        """What it asks for. Raises Left, among others."""
        check = partial(self._check, number)
        match message:
            case Connect(file, seconds, connecting):
                self.leave()
                me = self.rank, self.size, self.device
                self.group = connect(Path(file), *me, seconds, connecting, check)
            case Room(key, size):
                return self._make_room(key, size)
            case Replica(key, blueprint):
                self._replicate(key, unpack(blueprint, []))
            case Forget(key):
                self.models.pop(key, None)
                comfy.model_management.soft_empty_cache()
            case Pass(key, cargo, specs):
                check()
                self._compute(key, cargo, specs)
            case EndRun(run):
                return self.runs.end(run)

    def _check(self, number: int) -> None:
        if number < self.left:
            raise Left

    def leave(self) -> None:
        group, self.group = self.group, None
        if group is not None:
            group.abort()

    def _make_room(self, key: int, size: int) -> tuple[int, list[int]]:
        """Free bytes on the card, once replicas that were not used for longest have made room.

        Also the keys of those that are left.
        """
        self.models.pop(key, None)
        while self._free() < size and self.models:
            self.models.pop(next(iter(self.models)))
        return self._free(), list(self.models)

    def _free(self) -> int:
        comfy.model_management.soft_empty_cache()
        return comfy.model_management.get_free_memory(self.device)

    def _replicate(self, key: int, blueprint: replica.Blueprint) -> None:
        model, weights = replica.build(blueprint), {}
        while (weight := self._next_weight()).spec is not None:
            weights[weight.name] = self._receive(weight.spec)
        replica.fill(model, weights)
        self.models[key] = model

    def _receive(self, spec: Spec) -> torch.Tensor:
        x = spec.empty(self.device)
        self.group.broadcast(x)
        return x

    def _next_weight(self) -> Weight:
        while not isinstance(message := self.messages.get()[1], Weight):
            if isinstance(message, Leave):
                raise Left
            self.models.pop(message.key, None)  # of a Forget
        return message

    def _compute(self, key: int, cargo: bytes, specs: list[Spec]) -> None:
        """This card's part of a forward pass."""
        tensors = [self._receive(spec) for spec in specs]
        call = unpack(cargo, tensors)
        model = self.models[key] = self.models.pop(key)
        call.switches.apply()
        split = SplitPass(model, self.group)
        with self.runs.in_pass(call.radial, model, call.options) as options:
            args, kwargs = call.arguments(split.options(options))
            try:
                with split.hooked():
                    getattr(model, innermost(model))(*args, **kwargs)
            except Done:
                return
        raise RuntimeError("the model ended without a layer behind its blocks")
