"""The cards that compute together, as ComfyUI's process has them."""

import atexit
import logging
import queue
import shutil
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import torch
from comfy.model_management import OOM_EXCEPTION

from ...radial_core.ulysses.group import CardGroup, connect
from .messages import Connect, Leave
from .process import Process

log = logging.getLogger("radial_attention")

# Seconds without any progress after which the others are given up.
LIMIT = 300.0
# On a GPU a whole pass may be queued at once, and NCCL's own time limits begin then: they are not
# what gives up the others.
QUEUED = 24 * 3600.0
# Seconds in which a process must have started: it imports torch and ComfyUI.
START_LIMIT = 180.0
# On the CPU a collective's own limit is the last resort: what sees LIMIT can say more.
GROUP_LIMITS = 2.0


class Lost(RuntimeError):
    """Another card can't go on. The text says why, for people."""


class Team:
    """The processes of the other cards, and the group that all compute in.

    A thread watches them. If one ends, fails or makes no progress, all are given up: they are
    killed, which frees this process where it waits for them, and `check` raises Lost. Another
    thread sends, so that this process never waits for one that doesn't read.
    """

    def __init__(self, devices: list[torch.device]):
        """devices: this process's own card first. Raises Lost if the others don't start."""
        self.devices = devices
        self.why_lost: str | None = None
        self.group: CardGroup | None = None
        self.replicas: dict[int, object] = {}  # key -> of what weights; see replicas.py
        self._said: dict[Process, tuple[int, object]] = {}  # the last answer and its number
        self._is_ready = False
        self._groups, self._number = 0, 0  # of groups and of messages so far
        self._progress = time.monotonic()
        self._events: deque[torch.cuda.Event] = deque()  # what the GPU has yet to come to
        self._waits_since: float | None = None
        # SimpleQueue, since `tell` may be called while another call of it is collecting garbage.
        self._to_send: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._ending = threading.Lock()
        # Whoever takes part in what all do. Another pack may sample in several threads at once.
        self._taken = threading.RLock()
        try:
            self._folder = Path(tempfile.mkdtemp(prefix="radial_attention_"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
            for rank, device in enumerate(devices[1:], 1):
                self._said[Process(device, rank, len(devices))] = (-1, None)
        except Exception as error:
            self.give_up(f"no process can start: {error}")
            self.check()
        for work in (self._watch, self._send):
            threading.Thread(target=work, daemon=True).start()

    @property
    def processes(self) -> list[Process]:
        return list(self._said)

    def wait_until_ready(self, poll: Callable[[], None]) -> None:
        """poll: called over and over; what it raises ends the wait. Raises Lost."""
        with self._taken:
            if not self._is_ready:
                self._collect(START_LIMIT, poll)
                self._is_ready = True

    def ask(self, message) -> list:
        """What each process answers, in order. Raises Lost."""
        with self._taken:
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
        self._to_send.put(ForkingPickler.dumps((self._number, message)))

    @contextmanager
    def together(self) -> Iterator[None]:
        """What all take part in: if this process falls out of it, the others do too.

        Other threads wait.
        """
        with self._taken:
            try:
                yield
            except Lost:
                raise
            except BaseException:  # such as an interrupt
                self.leave()
                raise

    def connect(self) -> None:
        """Meet in a group, if there is none. Raises Lost."""
        if self.group is not None:
            return
        self._groups += 1
        file, device = self._folder / f"group{self._groups}", self.devices[0]
        seconds = GROUP_LIMITS * LIMIT if device.type == "cpu" else QUEUED
        self.begin(Connect(str(file), seconds, LIMIT))
        own = 0, len(self.devices), device
        self.group = self.timed(connect, file, *own, seconds, LIMIT, self.check)
        self.answers()

    def leave(self) -> None:
        """End what all are doing. The processes and what they hold stay."""
        self._number += 1  # what they say to what came before counts no more
        group, self.group = self.group, None
        if group is not None:
            group.abort()
        self._events = deque()
        try:
            self.tell(Leave())
        except Lost:
            pass  # known at the next pass

    def timed(self, function: Callable, *arguments):
        """Run something that waits for the other cards. Raises Lost."""
        self.check()
        self._waits_since = time.monotonic()
        try:
            result = function(*arguments)
        except (Lost, OOM_EXCEPTION):
            raise
        except Exception as error:
            self._wait_for_reason()
            self.give_up(f"{type(error).__name__}: {error}")
            raise Lost(self.why_lost) from error
        finally:
            self._waits_since = None
        self._mark_progress()
        return result

    def _wait_for_reason(self) -> None:
        """A collective may fail before the watcher, which knows more, sees why."""
        end = time.monotonic() + 2
        while self.why_lost is None and time.monotonic() < end:
            time.sleep(0.01)

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
        self._to_send.put(None)
        for process in self.processes:
            process.kill()
        if (group := self.group) is not None:  # which stays, for whoever is about to use it
            group.abort()

    def _collect(self, seconds: float, poll: Callable[[], None]) -> list:
        """An answer of each process."""
        end = time.monotonic() + seconds
        while any(number != self._number for number, _ in self._said.values()):
            poll()
            self.check()
            if time.monotonic() > end:
                self.give_up(f"no answer within {seconds:.0f} s")
            time.sleep(0.0005)
        return [value for _, value in self._said.values()]

    def _send(self) -> None:
        """Send what `tell` was told."""
        while (data := self._to_send.get()) is not None:
            for process in self.processes:
                try:
                    process.pipe.send_bytes(data)
                except OSError:
                    return  # it has ended, which the watcher sees too

    def _watch(self) -> None:
        """Read what the processes say, and see whether there is progress."""
        of_pipe = {process.pipe: process for process in self.processes}
        while self.why_lost is None:
            try:
                for pipe in wait(list(of_pipe), timeout=0.001 if self._events else 0.1):
                    self._read(of_pipe[pipe])
                self._see_progress()
            except Exception as error:
                self.give_up(f"{type(error).__name__}: {error}")

    def _read(self, process: Process) -> None:
        try:
            number, (error, value) = process.pipe.recv()
        except (EOFError, OSError):
            how = process.how_it_ended()
            self.give_up(f"the process of {process.device} has ended ({how})")
            return
        if number != self._number:
            return  # to something that was left
        if error is not None:
            self.give_up(f"{process.device}: {error}")
        self._said[process] = number, value

    def _see_progress(self) -> None:
        events, since = self._events, self._waits_since  # others may replace both
        while events and events[0].query():
            self._progress = time.monotonic()
            events.popleft()
        waits = [self._progress] * bool(events) + [since] * (since is not None)
        if waits and time.monotonic() - min(waits) > LIMIT:
            self.give_up(f"no progress for {LIMIT:.0f} s")


_teams: dict[tuple[torch.device, ...], Team] = {}
_choosing = threading.Lock()


def team_of(devices: list[torch.device]) -> Team:
    """The team of these cards, which starts if there is none. Raises Lost if it can't."""
    key = tuple(devices)
    with _choosing:
        team = _teams.get(key)
        if team is not None and team.why_lost is not None:
            log.info("Radial Multi-GPU: new processes start, since %s", team.why_lost)
        if team is None or team.why_lost is not None:
            end_all("others start, for another number of GPUs")  # a card belongs to one team
            team = _teams[key] = Team(devices)
        return team


@atexit.register
def end_all(why: str = "ComfyUI ends") -> None:
    for team in list(_teams.values()):
        team.give_up(why)
    _teams.clear()
