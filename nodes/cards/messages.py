"""What ComfyUI's process and those of the other cards say to each other over their pipes."""

from typing import NamedTuple

from .cargo import Spec


class Connect(NamedTuple):
    """Meet in a new group. Whoever waits in the old one is freed.

    file: where the cards meet. seconds, connecting: see `group.connect`.
    """

    file: str
    seconds: float
    connecting: float


class Leave(NamedTuple):
    """End all that was begun before, and leave the group. Gets no answer."""


class Room(NamedTuple):
    """Make room for a replica, if need be at the cost of others. -> free bytes, keys still there.

    bytes: of the replica, and what its passes take.
    """

    key: int
    bytes: int


class Replica(NamedTuple):
    """Make a replica. A `Weight` for each of its weights follows, then the end.

    blueprint: a `replica.Blueprint`, packed.
    """

    key: int
    blueprint: bytes


class Weight(NamedTuple):
    """A weight, which follows from card to card. spec: None after the last one."""

    name: str
    spec: Spec | None


class Forget(NamedTuple):
    """Drop a replica. Gets no answer."""

    key: int


class Pass(NamedTuple):
    """Compute a forward pass together. cargo: a packed `PassCall`; its tensors follow."""

    key: int
    cargo: bytes
    specs: list[Spec]


class EndRun(NamedTuple):
    """A sampler run is over. -> what a Record has read of it, None if nothing was radial."""

    run: int


class Answer(NamedTuple):
    """What a process answers. error: why it could not obey, for people; None if it could."""

    error: str | None
    value: object = None
