"""The kind of an attention call: all that a backend must know to say whether it can take it."""

from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache

import torch
from torch.utils import checkpoint

from .devices import device_module, is_gpu

# Gradient checkpointing raises these where a tensor is saved, to end a recomputation. They are no
# failures. The first is private, so it may have another name one day.
_SIGNALS = ("_StopRecomputationError", "CheckpointError")
SIGNALS = tuple(getattr(checkpoint, name) for name in _SIGNALS if hasattr(checkpoint, name))


@dataclass(frozen=True)
class Call:
    """The kind of an attention call, whatever its number of tokens.

    grad: gradients will be asked for. lse: the log-sum-exp is asked for. per_head: the plan has
    lists of its own for each head.
    """

    device: torch.device
    dtype: torch.dtype
    head_dim: int
    block_size: int
    grad: bool = False
    lse: bool = False
    per_head: bool = False

    def __str__(self):
        extras = "".join(f", {name}" for name in ("grad", "lse", "per_head") if getattr(self, name))
        dtype = str(self.dtype).removeprefix("torch.")
        return (
            f"{self.device}, {dtype}, head_dim {self.head_dim}, blocks of {self.block_size}{extras}"
        )


def call_key(q, k, v, block_size: int, lse: bool = False, per_head: bool = False) -> tuple:
    """The arguments of `Call` for these (b, s, h, d) tensors: quicker to look up than a Call."""
    return q.device, q.dtype, q.shape[-1], block_size, wants_gradients(q, k, v), lse, per_head


def wants_gradients(*tensors: torch.Tensor) -> bool:
    """Whether what is computed from these tensors now will be asked for gradients."""
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)


def with_one_gradient_layout(out: torch.Tensor) -> torch.Tensor:
    """What scaled_dot_product_attention returned, (b, h, s, d), safe to use with gradients.

    torch 2.11 looks up cuDNN's backward graphs by the strides of q, k and v, but not by those of
    the incoming gradient. If these change, the gradients of q, k and v are wrong. So the incoming
    gradient always gets the same strides: in memory it is (b, s, h, d).
    """
    if out.requires_grad:
        out.register_hook(lambda d_out: d_out.transpose(1, 2).contiguous().transpose(1, 2))
    return out


def readable(x: torch.Tensor) -> torch.Tensor:
    """x, copied unless most kernels can read it: head_dim contiguous, rows aligned to 16 bytes."""
    aligned = x.data_ptr() % 16 == 0 and all(stride % 8 == 0 for stride in x.stride()[:-1])
    return x if x.stride(-1) == 1 and aligned else x.clone(memory_format=torch.contiguous_format)


@cache
def capability(device: torch.device) -> tuple[int, int]:
    """Compute capability of an NVIDIA GPU, (9, 0) for an H100; (0, 0) for anything else."""
    if device.type != "cuda" or torch.version.cuda is None:
        return (0, 0)
    return torch.cuda.get_device_capability(device)


def on_device(device: torch.device):
    """A context in which a GPU is the current one: kernels are launched on that one."""
    if is_gpu(device) and device.index != device_module(device).current_device():
        return device_module(device).device(device)
    return nullcontext()


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out. Triton has no class for it, only the text."""
    said = str(error).lower().replace("out_of_device_memory", "out of memory")  # Intel's driver
    return isinstance(error, torch.cuda.OutOfMemoryError) or "out of memory" in said
