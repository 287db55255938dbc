"""A forward pass as it goes to the other cards."""

from collections.abc import Callable
from dataclasses import dataclass
from inspect import Parameter, signature

import torch

from ..comfyui.option_keys import BLOCK, IN_PARTS, KEY, PREVIOUS, SLOT
from .cargo import is_sendable
from .radial import RadialPass

OPTIONS = "transformer_options"
# What ComfyUI's process alone has: other nodes' functions around the pass, and our own entries.
STAYS = ("wrappers", "callbacks", "model_function_wrapper", KEY, SLOT, BLOCK, IN_PARTS, PREVIOUS)


@dataclass(frozen=True)
class Switches:
    """Switches of torch's matrix products that other nodes set, such as for the sums' precision."""

    allow_tf32: bool
    allow_fp16_accumulation: bool
    allow_bf16_reduced_precision_reduction: object
    allow_fp16_reduced_precision_reduction: object

    @classmethod
    def now(cls) -> "Switches":
        matmul = torch.backends.cuda.matmul
        return cls(*(getattr(matmul, name) for name in cls.__dataclass_fields__))

    def apply(self) -> None:
        for name in self.__dataclass_fields__:
            setattr(torch.backends.cuda.matmul, name, getattr(self, name))


@dataclass(frozen=True)
class PassCall:
    """The arguments of a model's forward.

    options: transformer_options, which `arguments` puts back in its place.
    """

    args: tuple
    kwargs: dict
    options: dict
    place: int | None  # of the options among args; None if they are among kwargs
    radial: RadialPass | None
    switches: Switches

    def arguments(self, options: dict) -> tuple[tuple, dict]:
        """args and kwargs with these options among them."""
        if self.place is None:
            return self.args, {**self.kwargs, OPTIONS: options}
        return (*self.args[: self.place], options, *self.args[self.place + 1 :]), self.kwargs


def innermost(model: torch.nn.Module) -> str:
    """The name of a model's forward that is inside of all of ComfyUI's wrappers."""
    return "_forward" if hasattr(type(model), "_forward") else "forward"


def options_of(forward: Callable, args: tuple, kwargs: dict) -> tuple[int | None, dict]:
    """Where transformer_options are among a forward's args, None if they are not, and these."""
    if OPTIONS in kwargs:
        return None, kwargs[OPTIONS] or {}
    names = [
        name
        for name, parameter in signature(forward).parameters.items()
        if parameter.kind is Parameter.POSITIONAL_OR_KEYWORD
    ]
    place = names.index(OPTIONS)
    return (place, args[place] or {}) if place < len(args) else (None, {})


def pass_call(forward: Callable, args: tuple, kwargs: dict, radial: RadialPass | None) -> PassCall:
    """forward: a bound method that takes transformer_options.

    Of these, other nodes' objects stay, such as what EasyCache keeps from step to step: their
    functions around the pass use them, and ComfyUI's models take no such thing but patches, with
    which a pass isn't split.
    """
    place, options = options_of(forward, args, kwargs)
    kept = {
        name: value for name, value in options.items() if name not in STAYS and is_sendable(value)
    }
    if place is not None:
        args = (*args[:place], None, *args[place + 1 :])
    kwargs = {name: value for name, value in kwargs.items() if name != OPTIONS}
    return PassCall(args, kwargs, kept, place, radial, Switches.now())
