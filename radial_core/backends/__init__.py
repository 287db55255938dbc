"""One kernel library a file, imported when first used, and in which order "auto" tries them.

A backend gets tensors and a plan, and knows nothing of patterns. Each file has

    why_not(call: Call) -> str | None
        Why it can't take such a call, with what to install; None if it can. Costs microseconds
        after the first time: no kernel is compiled, nothing is allocated on the device.
    run(q, k, v, plan, softmax_scale, return_lse) -> (out, lse)
        Exact attention over the kept blocks. q, k, v, out: (b, s, h, d), any strides. lse: float32
        (b, h, s), or None if it is not asked for.
"""

from functools import cache
from importlib import import_module
from types import ModuleType

from ..call import Call, capability

# Fastest first, as measured (benchmarks/results/attention-h100.json).
HOPPER = ("triton", "flash_attention", "flashinfer", "cudnn", "flex", "sdpa")
HOPPER_SHORT = ("flash_attention", "triton", "flashinfer", "cudnn", "flex", "sdpa")
SHORT = 50_000  # tokens; measured at 33k, where flash_attention leads, and from 75k on
# Not measured by us on the others: what needs no compiler of CUDA comes first.
DATACENTER_BLACKWELL = ("cudnn", "triton", "flashinfer", "flex", "sdpa")
OTHER_NVIDIA = ("triton", "flashinfer", "cudnn", "flex", "sdpa")
ANYWHERE = ("sdpa",)

BACKENDS = (*HOPPER, "reference")


def ranking(call: Call, tokens: int) -> tuple[str, ...]:
    """What "auto" tries for such a call over so many tokens, best first."""
    major = capability(call.device)[0]
    if major == 0:
        return ANYWHERE
    if major == 9:
        return HOPPER if tokens >= SHORT else HOPPER_SHORT
    return DATACENTER_BLACKWELL if major == 10 else OTHER_NVIDIA


@cache
def backend_module(name: str) -> ModuleType:
    return import_module(f".{name}", __package__)
