"""What GPUs of all makers have in common, and which of those that are not NVIDIA's our kernels fit.

torch calls AMD's GPUs "cuda", like NVIDIA's, and Intel's "xpu".
"""

from functools import cache

import torch

# AMD's architectures with matrix units: CDNA, and Radeon from RDNA 3 on. For those before, such as
# gfx1030, Triton 3.9 can't compile our kernels, and prints pages.
AMD = ("gfx908", "gfx90a", "gfx94", "gfx95", "gfx11", "gfx12")


def device_module(device: torch.device):
    """torch.cuda or torch.xpu: events, streams and properties of such a GPU."""
    return torch.xpu if device.type == "xpu" else torch.cuda


def is_gpu(device: torch.device) -> bool:
    """Whether Triton may have kernels for it."""
    return device.type in ("cuda", "xpu")


def device_name(device: torch.device) -> str:
    """A GPU's name, as its maker calls it; for anything else torch's: "cpu"."""
    return device_module(device).get_device_name(device) if is_gpu(device) else str(device)


@cache
def has_matrix_units(device: torch.device) -> bool:
    """Whether this is a GPU of AMD or Intel with matrix units: Triton's products need them."""
    if device.type == "xpu":
        return torch.xpu.get_device_properties(device).has_subgroup_matrix_multiply_accumulate
    if device.type == "cuda" and torch.version.hip:
        return torch.cuda.get_device_properties(device).gcnArchName.startswith(AMD)
    return False
