"""torch.distributed's Gloo, made to let go: ProcessGroupGloo.abort does nothing."""

import time

import torch.distributed as dist

# Aborted while something was under way. To delete a ProcessGroupGloo is to wait for that, with the
# interpreter's lock held.
_busy: list = []


class Gloo:
    """The part of ProcessGroupGloo that CardGroup uses."""

    def __init__(self, backend: dist.ProcessGroupGloo):
        self._backend: dist.ProcessGroupGloo | None = backend
        self._begun: list[dist.Work] = []
        self.is_aborted = False
        _busy[:] = [(group, works) for group, works in _busy if _under_way(works)]

    def alltoall_base(self, *arguments) -> "Work":
        return self._begin("alltoall_base", arguments)

    def broadcast(self, *arguments) -> "Work":
        return self._begin("broadcast", arguments)

    def abort(self) -> None:
        """Free whoever waits in this process, and cut the others off."""
        self.is_aborted = True
        backend, self._backend = self._backend, None
        if backend is not None and _under_way(self._begun):
            _busy.append((backend, self._begun))

    def _begin(self, name: str, arguments: tuple) -> "Work":
        backend = self._backend
        if backend is None:
            raise RuntimeError("the group was left")
        work = getattr(backend, name)(*arguments)
        self._begun = [*_under_way(self._begun), work]
        return Work(self, work)


class Work:
    """Waits for a collective, and not for one that was aborted."""

    def __init__(self, group: Gloo, work: dist.Work):
        self._group, self._work = group, work

    def wait(self) -> None:
        while not self._work.is_completed():
            if self._group.is_aborted:
                raise RuntimeError("the group was left")
            time.sleep(0.0001)
        self._work.wait()


def _under_way(works: list[dist.Work]) -> list[dist.Work]:
    return [work for work in works if not work.is_completed()]
