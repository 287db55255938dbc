"""Where heads look in dense runs of other videos than those that are compared."""

import model as lab_model
import per_head
import torch
from ground import OTHER_SEEDS, RECORDED, Ground
from masked import recorder

SEEDS = 4


def mass_of_others(ground: Ground) -> list[torch.Tensor]:
    """The mean block mass of each layer, (h, blocks, blocks) each, over videos and steps."""
    steps = {int(share * ground.steps) for share in RECORDED}
    model, calls = recorder(ground.model, ground.layout.tokens, steps)
    seeds = range(OTHER_SEEDS, OTHER_SEEDS + SEEDS)
    lab_model.sample(model, seeds, ground.size.latent, ground.steps)
    total = [0.0] * ground.layers
    with torch.inference_mode():
        for call in calls:
            for q, k in zip(call.q, call.k, strict=True):
                total[call.layer] = total[call.layer] + per_head.mass(q, k)
    return [each / (SEEDS * len(steps)) for each in total]
