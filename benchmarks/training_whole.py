"""Estimates a training step of the whole model from one with fewer blocks or a shorter video."""

import torch
from training_cases import DENSE_BLOCKS, Case

SPARE = 0.95  # of the GPU's memory: the most that a step may need
STATES = 4  # a LoRA weight, its gradient, and AdamW's two moments


def expected(case: Case, attention: dict) -> float:
    """Seconds that a step spends in its attention."""
    return sum(case.blocks.values()) * (attention["forward_ms"] / 1e3 + _backward_s(attention))


def rounded(run: dict, parameters: dict) -> dict:
    """A way's figures: seconds outside the blocks, of the optimizer, and of each block."""
    blocks = run["blocks"]
    inside = sum(sum(times) for each in blocks.values() for times in each)
    return {
        "s": round(run["s"], 4),
        "outside_s": round(run["s"] - inside, 4),
        "optimizer_s": round(run["optimizer_s"], 5),
        "lora_parameters": sum(x.numel() for x in parameters.values()),
        "block_s": {
            name: [[round(s, 4) for s in times] for times in each] for name, each in blocks.items()
        },
    }


def memory(case: Case, run: dict, parameters: dict, left_out: int) -> dict:
    """Peak GiB, measured and with the omitted blocks added, and the weights' share of it."""
    if "peak" not in run:
        return {}
    ran, every = sum(case.blocks.values()), sum(case.model.blocks.values())
    hidden = case.tokens * case.width * 2  # bytes that a checkpoint keeps
    lora = sum(x.numel() * x.element_size() for x in parameters.values()) * STATES
    weights = run["weights"] + lora
    more = left_out + (every - ran) * lora / ran
    gib = {
        "peak_gib_measured": run["peak"],
        "peak_gib": run["peak"] + more + (every - ran) * hidden,
        "weights_gib_measured": weights,
        "weights_gib": weights + more,
    }
    return {name: round(bytes_ / 2**30, 2) for name, bytes_ in gib.items()}


def longer(way: dict, ratio: float, suffix: str) -> float:
    """Peak GiB of a way at another length: all but weights and LoRA grows with the tokens.

    suffix: "" for the whole model, "_measured" for the blocks that were run.
    """
    weights = way[f"weights_gib{suffix}"]
    return weights + ratio * (way[f"peak_gib{suffix}"] - weights)


def fits(case: Case, shorter: dict, device: torch.device) -> bool:
    """Whether a step probably fits the GPU, judged by the peak of a shorter one."""
    if device.type != "cuda":
        return True
    way = shorter["ways"]["dense"]
    if "peak_gib_measured" not in way:  # the shorter one did not fit either
        return False
    peak = longer(way, case.tokens / shorter["tokens"], "_measured")
    return peak * 2**30 < SPARE * torch.cuda.get_device_properties(device).total_memory


def estimated_from_shorter(case: Case, alone: dict, shorter: dict) -> dict[str, dict]:
    """The ways of a case, estimated from its own attention and the steps of a shorter case."""
    ratio = case.tokens / shorter["tokens"]
    found = {}
    for way in ("radial", "dense"):
        short, before, after = shorter["ways"][way], shorter["attention"][way], alone[way]
        found[way] = {
            "outside_s": ratio * short["outside_s"],
            "optimizer_s": short["optimizer_s"],
            "block_s": {
                name: [
                    [
                        ratio * (forward - before["forward_ms"] / 1e3) + after["forward_ms"] / 1e3,
                        ratio * (backward - _backward_s(before)) + _backward_s(after),
                    ]
                    for forward, backward in each
                ]
                for name, each in short["block_s"].items()
            },
        }
        if "peak_gib" in short:
            found[way]["peak_gib"] = round(longer(short, ratio, ""), 1)
    return found


def _backward_s(attention: dict) -> float:
    """Seconds of attention in the backward of a checkpointed block, which repeats its forward."""
    return (attention["forward_ms"] + attention["backward_ms"]) / 1e3


def whole(case: Case, dense: dict, radial: dict, dense_blocks: int) -> float:
    """Seconds of a step of the whole model, with the first blocks dense."""
    total = radial["outside_s"]
    ran = sum(len(each) for each in radial["block_s"].values())
    total += radial["optimizer_s"] * sum(case.model.blocks.values()) / ran
    for name, count in case.model.blocks.items():
        first = min(dense_blocks, count)
        total += first * _mean(dense, name) + (count - first) * _mean(radial, name)
        dense_blocks -= first
    return total


def _mean(way: dict, name: str) -> float:
    times = [sum(each) for each in way["block_s"][name]]
    return sum(times) / len(times)


def summary(case: Case, ways: dict[str, dict]) -> dict:
    dense_s = whole(case, ways["dense"], ways["dense"], 0)
    radial_s = whole(case, ways["dense"], ways["radial"], DENSE_BLOCKS)
    return {
        "dense_s": round(dense_s, 3),
        "radial_s": round(radial_s, 3),
        "speedup_step": round(dense_s / radial_s, 2),
        "peak_gib_dense": ways["dense"].get("peak_gib"),
        "peak_gib_radial": ways["radial"].get("peak_gib"),
    }
