"""A weight as ComfyUI patches it when it is used, for those that it didn't patch when it loaded."""

import comfy.float
import comfy.model_management
import comfy.model_patcher
import comfy.utils
import torch


def is_patched_later(patcher, key: str) -> bool:
    """Whether a layer patches a weight when it uses it.

    Others are loaded with their patches, or never get them: ComfyUI leaves out the parameters of
    modules that have modules in them, such as a block's modulation.
    """
    if key not in patcher.patches or key in patcher.backup:
        return False
    module, name = _place(patcher, key)
    functions = getattr(module, f"{name}_function", ())
    of_layer = any(isinstance(each, comfy.model_patcher.LowVramPatch) for each in functions)
    return of_layer or getattr(module, f"{name}_lowvram_function", None) is not None


def _place(patcher, key: str) -> tuple[torch.nn.Module, str]:
    place, _, name = key.rpartition(".")
    return comfy.utils.get_attr(patcher.model, place), name


def patched(patcher, key: str):
    """A weight that is patched later, with its LoRAs and merges, on its card.

    It may be a quantized tensor.
    """
    module, name = _place(patcher, key)
    patch = getattr(module, f"{name}_lowvram_function", None)
    if not patcher.is_dynamic() or patch is None:
        device = patcher.load_device
        return patcher.patch_weight_to_device(key, device_to=device, return_weight=True)
    return _as_dynamic_vram_keeps_it(patcher, module, name, patch)


def _as_dynamic_vram_keeps_it(patcher, module: torch.nn.Module, name: str, patch):
    """What comfy.ops leaves on the card once such a weight was used, which isn't for us to read.

    The dtype it patches in, and the seed it rounds with, differ from those of a loaded model. In
    fp8 the rounding is most of what another seed would change.
    """
    device = patcher.load_device
    weight = getattr(module, name).to(device)
    weight = in_model_dtype(module, name, weight)
    compute_dtype = patcher.model.get_dtype_inference()
    if type(module).__qualname__.startswith("fp8_ops"):
        compute_dtype = comfy.model_management.lora_compute_dtype(device)
    x = weight.to(compute_dtype)
    is_quantized = hasattr(x, "dequantize") and hasattr(weight, "requantize_from_float")
    x = x.dequantize() if is_quantized else x.clone()
    x, seed = patch(x), comfy.utils.string_to_seed(module.seed_key)
    if is_quantized:
        return weight.requantize_from_float(x, scale="recalculate", stochastic_rounding=seed)
    return comfy.float.stochastic_rounding(x, weight.dtype, seed=seed)


def in_model_dtype(module: torch.nn.Module, name: str, weight: torch.Tensor) -> torch.Tensor:
    """A weight, or a buffer, as it is on the card with dynamic VRAM.

    In host memory it has the checkpoint's dtype until then, and is empty if the checkpoint has
    none.
    """
    dtype = getattr(module, f"{name}_comfy_model_dtype", None) or weight.dtype
    if weight.is_meta:
        return torch.zeros(weight.shape, dtype=dtype)
    return weight if hasattr(weight, "requantize_from_float") else weight.to(dtype)
