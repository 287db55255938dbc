"""The cards that compute together."""

import os
import sys

import torch
import torch.distributed

# For tests, which have no GPUs: that many processes share the CPU, and exchange over Gloo.
CPU_CARDS = "RADIAL_ATTENTION_CPU_CARDS"
NAMES = {
    "mps": "Apple GPUs",
    "xpu": "Intel GPUs",
    "privateuseone": "DirectML",
    "npu": "Ascend NPUs",
}


def cards_of(device: torch.device, wanted: int) -> tuple[list[torch.device], str | None]:
    """The cards for a model, its own one first, and why they are fewer than wanted.

    device: of the model. wanted: how many; 0 for all that ComfyUI sees. The others follow by index.
    The reason is None if no more were wanted; wanting all and finding one has a reason too.
    """
    if wanted == 1:
        return [device], None
    if device.type == "cpu":
        return _of_cpu(device, wanted)
    if device.type != "cuda":  # which ROCm's are too, and NCCL stands for RCCL there
        return [device], f"{NAMES.get(device.type, device.type)} can't share a video"
    found = torch.cuda.device_count()
    if found < 2:
        return [device], "ComfyUI sees no other GPU"
    if why := _why_no_nccl():
        return [device], why
    own = torch.cuda.current_device() if device.index is None else device.index
    others = [index for index in range(found) if index != own]
    cards = [torch.device("cuda", index) for index in (own, *others)]
    if wanted > found:
        return cards, _asked_for(wanted, found)
    return cards[: wanted or None], None


def _of_cpu(device: torch.device, wanted: int) -> tuple[list[torch.device], str | None]:
    found = os.environ.get(CPU_CARDS, "")
    found = int(found) if found.isdecimal() else 1
    if found < 2:
        return [device], "the model is on the CPU"
    if wanted > found:
        return [device] * found, _asked_for(wanted, found)
    return [device] * (wanted or found), None


def _asked_for(wanted: int, found: int) -> str:
    return f"{wanted} GPUs were asked for, ComfyUI sees {found}"


def _why_no_nccl() -> str | None:
    """Why GPUs can't exchange data here; None if they can."""
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_nccl_available():
        return None
    return "NCCL isn't there on Windows" if sys.platform == "win32" else "this torch has no NCCL"
