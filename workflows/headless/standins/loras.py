"""LoRAs for Wan 14B, rank 4, with the file names of popular ones."""

from functools import partial

import torch

from .wan import BLOCKS, DIM, FEED_FORWARD
from .weights import StandIn, in_bfloat16

RANK = 4
LINEARS = {  # in a block -> width out, width in
    **{f"{kind}_attn.{name}": (DIM, DIM) for kind in ("self", "cross") for name in "qkvo"},
    "ffn.0": (FEED_FORWARD, DIM),
    "ffn.2": (DIM, FEED_FORWARD),
}


def lightx2v(seed: int) -> StandIn:
    """Like LightX2V's LoRAs for Wan 2.2: alpha is a whole number."""
    weights = in_bfloat16(dict(_low_rank(torch.Generator().manual_seed(seed))))
    ends = ".lora_up.weight"
    alphas = {name.removesuffix(ends) + ".alpha" for name in weights if name.endswith(ends)}
    return StandIn({**weights, **{name: torch.tensor(RANK) for name in alphas}})


def fusionx() -> StandIn:
    """Like FusionX, which was extracted from a whole model: biases and norms change too."""
    generator = torch.Generator().manual_seed(0)
    weights = dict(_low_rank(generator))
    for block in range(BLOCKS):
        prefix = f"diffusion_model.blocks.{block}"
        for linear, (width, _) in LINEARS.items():
            weights[f"{prefix}.{linear}.diff_b"] = _small(generator, width)
        for norm in ("self_attn.norm_q", "self_attn.norm_k", "norm3"):
            weights[f"{prefix}.{norm}.diff"] = _small(generator, DIM)
    return StandIn(in_bfloat16(weights))


def _low_rank(generator: torch.Generator):
    for block in range(BLOCKS):
        for linear, (out_width, in_width) in LINEARS.items():
            name = f"diffusion_model.blocks.{block}.{linear}"
            yield f"{name}.lora_down.weight", _small(generator, RANK, in_width)
            yield f"{name}.lora_up.weight", _small(generator, out_width, RANK)


def _small(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=generator) * 0.1


FILES = {
    "loras/Wan2.1_T2V_14B_FusionX_LoRA.safetensors": fusionx,
    **{
        f"loras/wan2.2_{kind}_noise.safetensors": partial(lightx2v, seed)
        for seed, kind in enumerate(
            [
                "t2v_lightx2v_4steps_lora_v1.1_high",
                "t2v_lightx2v_4steps_lora_v1.1_low",
                "i2v_lightx2v_4steps_lora_v1_high",
                "i2v_lightx2v_4steps_lora_v1_low",
            ]
        )
    },
}
