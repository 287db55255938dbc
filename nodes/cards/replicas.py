"""Keeps replicas on the other cards as the model is in ComfyUI's process."""

import itertools
import logging
import weakref
from contextlib import suppress

import torch
from comfy.model_management import (
    InterruptProcessingException,
    throw_exception_if_processing_interrupted,
)

from . import replica
from .cargo import NotSendable, Spec, pack
from .messages import Forget, Replica, Room, Weight
from .team import Lost, Team

log = logging.getLogger("radial_attention")

_numbers = itertools.count()
_keys = weakref.WeakKeyDictionary()  # BaseModel -> number


class TooLarge(Exception):
    """A replica doesn't fit. The text says the numbers."""


def update_replicas(team: Team, base, passes: int) -> int:
    """Give the other cards the weights that a model has now, if they have others. -> its key.

    base: ComfyUI's BaseModel, loaded. passes: bytes that its passes take on a card besides. Raises
    Lost, TooLarge, or cargo.NotSendable.
    """
    key, patcher = _key(base), base.current_patcher
    if team.replicas.get(key) == patcher.patches_uuid:
        return key
    team.replicas.pop(key, None)
    size = replica.weight_bytes(patcher)
    try:
        blueprint, _ = pack(replica.blueprint(base), torch.device("meta"))
    except NotSendable as error:
        raise NotSendable(f"of the model, {error}") from error
    others = ", ".join(map(str, team.devices[1:]))
    log.info("Radial Multi-GPU: %s of weights go to each of %s", gib(size), others)
    answers = team.ask(Room(key, size + passes))
    kept = set.intersection(*(set(keys) for _, keys in answers))
    team.replicas = {each: weights for each, weights in list(team.replicas.items()) if each in kept}
    for device, (bytes_free, _) in zip(team.devices[1:], answers, strict=True):
        if bytes_free < size + passes:
            needs = f"{gib(size)} of weights and about {gib(passes)} for a pass"
            raise TooLarge(f"{device} has {gib(bytes_free)} free, a replica needs {needs}")
    try:
        with team.together():
            team.connect()
            _send(team, key, blueprint, patcher)
    except (Lost, InterruptProcessingException):
        raise
    except Exception as error:  # such as too little memory for a weight with its LoRA
        raise NotSendable(f"the model's weights: {type(error).__name__}: {error}") from error
    team.replicas[key] = patcher.patches_uuid
    weakref.finalize(base, _forget, weakref.ref(team), key).atexit = False
    return key


def _key(base) -> int:
    if base not in _keys:
        _keys[base] = next(_numbers)
    return _keys[base]


def _send(team: Team, key: int, blueprint: bytes, patcher) -> None:
    team.begin(Replica(key, blueprint))
    for name, weight in replica.weights_of(patcher):
        throw_exception_if_processing_interrupted()
        x = weight.detach().to(team.devices[0]).contiguous()
        team.tell(Weight(name, Spec(tuple(x.shape), x.dtype)))
        team.timed(team.group.broadcast, x)
    team.tell(Weight("", None))
    team.finish()
    team.answers()


def _forget(team: weakref.ref, key: int) -> None:
    """The model is gone in ComfyUI's process, which may be at any line of it."""
    team = team()
    if team is None or team.replicas.pop(key, None) is None:
        return
    with suppress(Lost):
        team.tell(Forget(key))


def gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"
