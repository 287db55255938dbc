"""What one process hands to the others: plain bytes, and tensors that go from card to card.

It goes over a pipe between a process and one that it started itself, and comes from nowhere else.
"""

import io
import pickle
import sys
from types import FunctionType, MethodType
from typing import NamedTuple

import torch

from ..comfyui.packs import is_in_comfyui, pack_name

PACK = __package__.rpartition(".nodes")[0]
# Top modules that need no pack. "__main__" is another file in each process.
EVERYWHERE = (sys.stdlib_module_names | {"torch", "numpy"}) - {"__main__"}


class NotSendable(ValueError):
    """Something that another process can't have. The text says what and why, for people."""


class Spec(NamedTuple):
    """A tensor that is sent by itself."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    def empty(self, device: torch.device) -> torch.Tensor:
        return torch.empty(self.shape, dtype=self.dtype, device=device)


def pack(value, device: torch.device) -> tuple[bytes, list[torch.Tensor]]:
    """A value as bytes, and the tensors in it that are on a device, contiguous.

    Raises NotSendable if some of it exists in this process only, such as another pack's functions.
    """
    file = io.BytesIO()
    pickler = _Pickler(file, device)
    try:
        pickler.dump(value)
    except NotSendable:
        raise
    except Exception as error:  # whatever an object raises that is not made for it
        raise NotSendable(f"{type(error).__name__}: {error}") from error
    return file.getvalue(), [x.contiguous() for x in pickler.tensors]


def is_sendable(value) -> bool:
    """Whether `pack` takes a value, whatever device its tensors are on."""
    try:
        _Pickler(io.BytesIO(), None).dump(value)
    except Exception:
        return False
    return True


def specs(tensors: list[torch.Tensor]) -> list[Spec]:
    return [Spec(tuple(x.shape), x.dtype) for x in tensors]


def unpack(data: bytes, tensors: list[torch.Tensor]):
    """The value again. tensors: those that were in it, in order."""
    unpickler = pickle.Unpickler(io.BytesIO(data))
    unpickler.persistent_load = tensors.__getitem__
    return unpickler.load()


class _Pickler(pickle.Pickler):
    def __init__(self, file, device: torch.device | None):
        """device: of the tensors that go by themselves; None for any."""
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self.device, self.tensors, self._index = device, [], {}

    def persistent_id(self, x):
        """The number of a tensor that goes by itself. The same tensor goes once."""
        if not torch.is_tensor(x) or self.device not in (None, x.device):
            return None
        if type(x) not in (torch.Tensor, torch.nn.Parameter):
            raise NotSendable(f"a {type(x).__name__} can't go to another process")
        if id(x) not in self._index:
            self._index[id(x)] = len(self.tensors)
            self.tensors.append(x.detach())
        return self._index[id(x)]

    def reducer_override(self, x):
        if isinstance(x, FunctionType | MethodType | type):
            if not _exists_elsewhere(x.__module__):
                owner = pack_name(x.__module__)
                raise NotSendable(f"{x.__qualname__} of {owner} is in this process only")
        return NotImplemented


def _exists_elsewhere(module: str) -> bool:
    """Whether another process of ours can import a module: no other pack's.

    Packs are loaded under names that are no names to import, and from folders that they may have
    added to the path since.
    """
    top = module.partition(".")[0]
    ours = f"{module}.".startswith(f"{PACK}.")
    return ours or top in EVERYWHERE or is_in_comfyui(module)
