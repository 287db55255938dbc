"""The cards that compute together, as ComfyUI's process has them."""

import atexit
import logging
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path

import torch

from ...radial_core.ulysses.group import CardGroup, connect
from .messages import Connect, Done, Failed, Forget, Leave
from .process import Process

log = logging.getLogger("radial_attention")

# Seconds without any progress after which the others are given up.
LIMIT = 300.0
# On a GPU a whole pass may be queued at once, and NCCL's own time limits begin then: they are not
# what gives up the others.
QUEUED = 24 * 3600.0
# Seconds in which a process must have started: it imports torch and ComfyUI.
START_LIMIT = 180.0


class Lost(RuntimeError):
    """Another card can't go on. The text says why, for people."""


class Team:
    """The processes of the other cards, and the group that all compute in.

    A thread watches them. If one ends, fails or makes no progress, all are given up: they are
    killed, which frees this process where it waits for them, and `check` raises Lost.
    """

    def __init__(self, devices: list[torch.device]):
        """devices: this process's own card first. Raises Lost if the others don't start."""
        self.devices = devices
        self.why_lost: str | None = None
        self.group: CardGroup | None = None
        self.replicas: dict[int, object] = {}  # key -> of what weights; see replicas.py
        self._folder = tempfile.TemporaryDirectory(prefix="radial_attention_")
        self._answers: dict[Process, deque] = {}
        self._is_ready = False
        self._groups, self._number = 0, 0  # of groups and of messages so far
        self._progress = time.monotonic()
        self._events: deque[torch.cuda.Event] = deque()  # what the GPU has yet to come to
        self._forgotten: deque[int] = deque()  # keys of replicas that are of no more use
        self._sending, self._ending = threading.Lock(), threading.Lock()
        for rank, device in enumerate(devices[1:], 1):
            self._answers[Process(device, rank, len(devices))] = deque()
        threading.Thread(target=self._watch, daemon=True).start()

    @property
    def processes(self) -> list[Process]:
        return list(self._answers)

    def wait_until_ready(self, poll: Callable[[], None]) -> None:
        """poll: called over and over; what it raises ends the wait. Raises Lost."""
        if not self._is_ready:
            self._collect(START_LIMIT, poll)
            self._is_ready = True

    def ask(self, message) -> list:
        """What each process answers, in order. Raises Lost."""
        self.begin(message)
        return self.answers()

    def begin(self, message) -> None:
        """Send all a message; `answers` waits for what they say. Raises Lost."""
        self._number += 1
        self.tell(message)

    def answers(self) -> list:
        """What all said to the last message that was begun. Raises Lost."""
        return self._collect(LIMIT, lambda: None)

    def tell(self, message) -> None:
        """Send all a message that belongs to the one before, or gets no answer. Raises Lost."""
        self.check()
        for process in self.processes:
            try:
                with self._sending:
                    process.pipe.send((self._number, message))
            except OSError:
                self.give_up(f"the process of {process.device} has ended")
        self.check()

    def forget(self, key: int) -> None:
        """Drop a replica, soon. It may be called while this process sends another message."""
        self._forgotten.append(key)

    def connect(self) -> None:
        """Meet in a group, if there is none. Raises Lost."""
        if self.group is not None:
            return
        self._groups += 1
        file = Path(self._folder.name) / f"group{self._groups}"
        device = self.devices[0]
        seconds = LIMIT if device.type == "cpu" else QUEUED
        self.begin(Connect(str(file), seconds, LIMIT))
        try:
            self.group = connect(file, 0, len(self.devices), device, seconds, LIMIT)
        except Exception as error:
            self.give_up(f"they can't reach each other: {error}")
        self.answers()

    def leave(self) -> None:
        """End what the group is doing. The processes and what they hold stay."""
        self._number += 1  # what they say to it counts no more
        group, self.group = self.group, None
        if group is not None:
            group.abort()
        self._events.clear()
        for answers in self._answers.values():
            answers.clear()
        try:
            self.tell(Leave())
        except Lost:
            pass  # known at the next pass

    def timed(self, function: Callable, *arguments):
        """Run something that waits for the other cards. Raises Lost."""
        self.check()
        try:
            result = function(*arguments)
        except Exception as error:
            # On a CPU a collective fails at once if another one has ended.
            time.sleep(0.2)  # for the watcher, which knows more
            self.give_up(f"{type(error).__name__}: {error}")
            raise Lost(self.why_lost) from error
        self._mark_progress()
        return result

    def _mark_progress(self) -> None:
        """This process got on. On a GPU that counts when the GPU has come to it."""
        if not self._events:
            self._progress = time.monotonic()
        if self.devices[0].type == "cuda":
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(self.devices[0]))
            self._events.append(event)

    def finish(self) -> None:
        """Wait until this card has done all that it was given. Raises Lost."""
        while self._events:  # the watcher takes them away
            self.check()
            time.sleep(0.0005)
        self.check()

    def check(self) -> None:
        if self.why_lost is not None:
            raise Lost(self.why_lost)

    def give_up(self, why: str) -> None:
        """End all processes. From now on `check` raises Lost."""
        with self._ending:
            if self.why_lost is not None:
                return
            self.why_lost = why
        for process in self.processes:
            process.kill()
        if self.group is not None:
            self.group.abort()
        self._folder.cleanup()

    def _collect(self, seconds: float, poll: Callable[[], None]) -> list:
        """An answer of each process."""
        end = time.monotonic() + seconds
        while not all(self._answers.values()):
            poll()
            self.check()
            if time.monotonic() > end:
                self.give_up(f"no answer within {seconds:.0f} s")
            time.sleep(0.0005)
        return [answers.popleft() for answers in self._answers.values()]

    def _watch(self) -> None:
        """Read what the processes say, and see whether there is progress."""
        of_pipe = {process.pipe: process for process in self.processes}
        while self.why_lost is None:
            try:
                for pipe in wait(list(of_pipe), timeout=0.001 if self._events else 0.1):
                    self._read(of_pipe[pipe])
                self._see_progress()
                while self._forgotten:
                    self.tell(Forget(self._forgotten.popleft()))
            except Exception as error:  # such as of a pipe that `give_up` closed
                self.give_up(f"{type(error).__name__}: {error}")

    def _read(self, process: Process) -> None:
        try:
            number, message = process.pipe.recv()
        except (EOFError, OSError):
            how = process.how_it_ended()
            self.give_up(f"the process of {process.device} has ended ({how})")
            return
        if number != self._number:
            return  # to something that was left
        if isinstance(message, Failed):
            self.give_up(f"{process.device}: {message.error}")
        elif isinstance(message, Done):
            self._answers[process].append(message.value)

    def _see_progress(self) -> None:
        events = self._events
        while events and events[0].query():
            self._progress = time.monotonic()
            events.popleft()
        if events and time.monotonic() - self._progress > LIMIT:
            self.give_up(f"no progress for {LIMIT:.0f} s")


_teams: dict[tuple[torch.device, ...], Team] = {}


def team_of(devices: list[torch.device]) -> Team:
    """The team of these cards, which starts if there is none. Raises Lost if it can't."""
    key = tuple(devices)
    team = _teams.get(key)
    if team is None or team.why_lost is not None:
        end_all()  # a card belongs to one team
        team = _teams[key] = Team(devices)
    return team


@atexit.register
def end_all() -> None:
    for team in list(_teams.values()):
        team.give_up("ComfyUI ends")
    _teams.clear()
