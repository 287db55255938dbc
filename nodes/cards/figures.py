"""What several cards did in a sampler run, for reports."""

from dataclasses import dataclass

import torch

from ...radial_core.devices import device_name


@dataclass(frozen=True)
class Passes:
    """The forward passes of a run.

    number: of all. split: of those that several cards computed. seconds: what those took.
    communication_seconds: what this process's card spent on exchanges in them, waiting for a slower
    one included. why_not_split: why single passes were on one card. why_one: why the run was on
    one, or was from some pass on.
    """

    number: int
    split: int
    seconds: float
    communication_seconds: float
    why_not_split: tuple[str, ...] = ()
    why_one: str | None = None


def figures(
    devices: list[torch.device],
    passes: Passes,
    others: list[dict | None],
    why_fewer: str | None = None,
) -> dict:
    """Plain values, for JSON.

    devices: that computed together; none if no pass was split. others: of each other card what its
    Record has read, if it had any radial passes. why_fewer: why there were fewer cards than asked
    for.
    """
    return {
        "gpus": [str(device) for device in devices],
        "names": [device_name(device) for device in devices],
        "passes": passes.number,
        "split_passes": passes.split,
        "split_seconds": passes.seconds,
        "communication_seconds": passes.communication_seconds,
        "why_not_split": list(passes.why_not_split),
        "why_one": passes.why_one,
        "why_fewer": why_fewer,
        "others": [each and _of_other(each) for each in others],
    }


def _of_other(read: dict) -> dict:
    totals = read["totals"]
    names = ("radial_calls", "adaptive_calls", "dense_calls", "attention_seconds")
    found = {name: totals[name] for name in names}
    return found | {name: read[name] for name in ("backend", "precisions", "failures")}
