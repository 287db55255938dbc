"""What several cards did in a sampler run, for reports."""

import torch

from ...radial_core.devices import device_name


def figures(
    devices: list[torch.device],
    split_passes: int,
    seconds: float,
    why_one: str | None,
    others: list[dict | None],
) -> dict:
    """Plain values, for JSON.

    devices: that computed together; none if no pass was split. seconds: that this process's card
    spent on exchanges, waiting for a slower one included. why_one: why the run was on one card, or
    was from some pass on. others: of each other card what its Record has read, if it had any
    radial passes.
    """
    return {
        "gpus": [str(device) for device in devices],
        "names": [device_name(device) for device in devices],
        "split_passes": split_passes,
        "communication_seconds": seconds,
        "why_one": why_one,
        "others": [each and _of_other(each) for each in others],
    }


def _of_other(read: dict) -> dict:
    totals = read["totals"]
    names = ("radial_calls", "adaptive_calls", "dense_calls", "attention_seconds")
    found = {name: totals[name] for name in names}
    return found | {name: read[name] for name in ("backend", "precisions", "failures")}


def summary(found: dict) -> str:
    """For the log."""
    if not found["split_passes"]:
        return f"one GPU: {found['why_one'] or 'no pass could be split'}"
    passes, seconds = found["split_passes"], found["communication_seconds"]
    return f"{passes} passes on {', '.join(found['gpus'])}; {seconds:.1f} s of communication"
