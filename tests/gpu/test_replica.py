"""A replica computes what its model does, however ComfyUI holds the model's weights. One GPU.

RADIAL_ATTENTION_COMFYUI=FOLDER [RADIAL_ATTENTION_DYNAMIC=1] python -m pytest ...
"""

import json

import pytest
import torch
from in_comfyui import COMFYUI, differ, drawn, load, sample, with_lora

pytestmark = pytest.mark.skipif(COMFYUI is None, reason="no ComfyUI")


def quantized(weights, name="float8_e4m3fn"):
    """A checkpoint with the matrices of all blocks in one of ComfyUI's quantized formats."""
    import comfy.quant_ops

    layout = comfy.quant_ops.QUANT_ALGOS[name]["comfy_tensor_layout"]
    out, layers = {}, {}
    for key, x in weights.items():
        if key.startswith("blocks.") and key.endswith(".weight") and x.ndim == 2:
            x = comfy.quant_ops.QuantizedTensor.from_float(x.cuda(), layout, scale="recalculate")
            out.update({part: y.cpu() for part, y in x.state_dict(key).items()})
            layers[key.removesuffix(".weight")] = {"format": name}
        else:
            out[key] = x
    found = json.dumps({"format_version": "1.0", "layers": layers})
    return out, {"_quantization_metadata": found}


@pytest.mark.parametrize("kind", ["bf16", "fp8", "quantized"])
@pytest.mark.parametrize("lora", [False, True], ids=["plain", "lora"])
def test_a_replica_computes_the_same(pack, kind, lora):
    replica = pack("cards.replica")
    if kind == "quantized":
        weights, metadata = quantized(drawn())
        patcher = load(weights, None, metadata)
    else:
        patcher = load(drawn(), torch.float8_e4m3fn if kind == "fp8" else torch.bfloat16)
    patcher = with_lora(patcher) if lora else patcher
    found = []

    def both(apply_model, given):
        call = given["input"], given["timestep"]
        apply_model(*call, **given["c"])  # the first pass in a process, or of a LoRA, is rounded
        out = apply_model(*call, **given["c"])  # otherwise by ComfyUI itself
        if not found:
            base = patcher.model
            plan = replica.blueprint(base)
            copy = replica.build(plan)
            weights = {name: x.to("cuda") for name, x in replica.weights_of(base.current_patcher)}
            replica.fill(copy, weights)
            own, base.diffusion_model = base.diffusion_model, copy
            try:
                found.append(differ(out, apply_model(*call, **given["c"])))
            finally:
                base.diffusion_model = own
        return out

    patcher = patcher.clone()
    patcher.set_model_unet_function_wrapper(both)
    sample(patcher)
    print(kind, lora, patcher.is_dynamic(), "difference of a pass", found)
    assert found[0] < 1e-6
