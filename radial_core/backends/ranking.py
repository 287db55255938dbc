"""Which backends "auto" tries on a GPU, fastest first. A backend that is in none can be named."""

from ..call import Call, capability
from ..devices import is_gpu
from . import backend_module

SHORT_VIDEO = 50_000  # tokens; measured at 33k, where flash_attention leads, and from 75k on

# Measured on an H100 and an H200: benchmarks/results/attention-h100.json and attention-h200.json.
HOPPER = ("triton_int8", "triton", "flash_attention", "flashinfer", "cudnn", "flex", "sdpa")
# Rounding takes the time there that 8 bits save.
HOPPER_SHORT = ("flash_attention", "triton", "flashinfer", "cudnn", "flex", "sdpa")
# Not measured. What compiles without CUDA's nvcc comes first.
DATACENTER_BLACKWELL = ("cudnn", "triton", "flashinfer", "flex", "sdpa")
OTHER_NVIDIA = ("triton_int8", "triton", "flashinfer", "cudnn", "flex", "sdpa")
# SpargeAttn and SageAttention by their authors' rates on RTX cards.
AMPERE_AND_ADA = ("spargeattn", *OTHER_NVIDIA)
# There SageAttention's kernels, on which SpargeAttn is built, were reported to return noise, to
# crash the driver and to stop the process (its issues 388 and 391, and 90 of the fork with wheels
# for Windows). No proof on a small case survives that, or finds it. So ours come first.
GEFORCE_BLACKWELL = ("triton_int8", "spargeattn", *OTHER_NVIDIA[1:])
# Not measured, nor ever run there: what compiles and proves itself.
AMD_AND_INTEL = ("triton_int8", "triton", "sdpa")
ANYWHERE = ("sdpa",)

# Dense kernels that beat torch's own choice, by the major compute capability; on other GPUs none is
# known to. Measured on Hopper only.
DENSE = {
    8: ("sageattention", "triton_int8"),
    9: ("triton_int8", "flash_attention", "triton", "cudnn"),
    10: ("flash_attention", "cudnn"),
    12: ("triton_int8", "sageattention"),
}


def ranking(call: Call, tokens: int, approximate: bool = False) -> tuple[str, ...]:
    """The backends to try for such a call over so many tokens, fastest first.

    approximate: with those that are not exact.
    """
    return _allowed(_fastest_first(call, tokens), approximate)


def dense_ranking(call: Call, approximate: bool = False) -> tuple[str, ...]:
    """The same for dense kernels. Empty where torch's own choice is the best."""
    return _allowed(_fastest_dense_first(call), approximate)


def _fastest_first(call: Call, tokens: int) -> tuple[str, ...]:
    major = capability(call.device)[0]
    if major == 0:
        return AMD_AND_INTEL if is_gpu(call.device) else ANYWHERE
    if major == 9:
        return HOPPER if tokens >= SHORT_VIDEO else HOPPER_SHORT
    others = {8: AMPERE_AND_ADA, 10: DATACENTER_BLACKWELL, 12: GEFORCE_BLACKWELL}
    return others.get(major, OTHER_NVIDIA)


def _fastest_dense_first(call: Call) -> tuple[str, ...]:
    return DENSE.get(capability(call.device)[0], ())


def _allowed(names: tuple[str, ...], approximate: bool) -> tuple[str, ...]:
    if approximate:
        return names
    return tuple(name for name in names if backend_module(name).ACCURACY.exact)
