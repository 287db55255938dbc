"""The ways to compute attention that attention.py compares: ours, ComfyUI's, SageAttention's."""

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from itertools import chain
from typing import NamedTuple

import torch
from attention_measure import DEVICE, DTYPE, HEAD_DIM, SCALE
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from radial_core import BACKENDS, Plan
from radial_core.attention import attend, choose_backend, why_not
from radial_core.backends import backend_module
from radial_core.backends.contract import EXACT, PRECISIONS
from radial_core.call import Call

CALL = Call(DEVICE, DTYPE, HEAD_DIM, 128)
SLOW = 100_000  # from this many tokens on the slowest backends are left out
# From this many tokens on, so are the 8-bit dense kernels of others: a call takes 5 seconds, and
# their rate is that of shorter videos.
LONG = 200_000
_, EIGHT_BIT = PRECISIONS
AUTO = {"auto": False, "auto, 8 bit": True}  # name -> whether it may be approximate
PORTABLE = "triton, portable kernel"
# Its threshold -> the row: the default of ComfyUI's node, and one that computes more.
KITCHEN_SPARSE = {
    tau: f"comfy-kitchen sol_attn (int8, tau {tau}), error against dense" for tau in (1.3, 1.0)
}
KITCHEN_DENSE = "dense-comfy-kitchen int8"
SAGE = "dense-sageattention"
# All in 8 bits, and our exact kernel beside them.
_EIGHT_BIT = [name for name in BACKENDS if not backend_module(name).ACCURACY.exact]
EIGHT_BIT_ROWS = (
    *(*AUTO, "triton", *_EIGHT_BIT, "dense-triton", *(f"dense-{name}" for name in _EIGHT_BIT)),
    *(KITCHEN_DENSE, SAGE, *KITCHEN_SPARSE.values()),
)


class Row(NamedTuple):
    """A row before it is measured. run: q, k, v -> out, all (b, s, h, d)."""

    backend: str
    precision: str  # one of PRECISIONS
    kept: Plan
    run: Callable
    changes_k: bool = False


def rows(plan: Plan, everything: Plan, only: Collection[str] | None = None):
    """Those that work here. everything: the plan of the same video that keeps all blocks.

    only: their names; None for all. What is not wanted is not tried: some take minutes to compile.
    """
    yield from radial_rows(plan, only)
    found = (dense_rows(everything), comfy_kitchen_rows(everything), sage_rows(everything))
    yield from (row for row in chain(*found) if _wanted(row.backend, only))


def radial_rows(plan: Plan, only: Collection[str] | None):
    """One for each backend that works here."""
    for name, approximate in AUTO.items():
        if not _wanted(name, only):
            continue
        ran = choose_backend("auto", CALL, plan.tokens, approximate)
        run = partial(run_backend, "auto", replace(plan), approximate=approximate)
        yield Row(name, backend_module(ran).ACCURACY.precision, plan, run)
    for name in BACKENDS:
        if not _wanted(name, only) or name == "reference" or name == "sdpa" and plan.tokens >= SLOW:
            continue
        if reason := why_not(name, CALL):
            print(f"  {name}: {reason}", flush=True)
            continue
        fresh = replace(plan)  # without another backend's cached data
        precision = backend_module(name).ACCURACY.precision
        yield Row(name, precision, fresh, partial(run_backend, name, fresh))
    if _wanted(PORTABLE, only) and why_not("triton", CALL) is None:
        from radial_core.kernels.portable_launch import Tiles

        yield portable_row(plan, Tiles(128, 64, 4, 2))


def _wanted(name: str, only: Collection[str] | None) -> bool:
    return not only or name in only


def portable_row(plan: Plan, tiles) -> Row:
    """Our portable kernel, also where the backend `triton` runs another one."""
    from radial_core.kernels import portable_launch

    lists = (plan.indptr, plan.indices, plan.order, plan.block_size)

    def run(q, k, v):
        return portable_launch.run(tiles, q, k, v, *lists, SCALE, False)[0]

    return Row(PORTABLE, EXACT.precision, plan, run)


def run_backend(name: str, plan: Plan, q, k, v, approximate: bool = False) -> torch.Tensor:
    out, _, ran = attend(q, k, v, plan, name, approximate=approximate)
    if name not in ("auto", ran):
        raise RuntimeError(f"{ran} ran in its place")
    return out


def dense_rows(everything: Plan):
    kernels = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
    for name, kernel in kernels.items():

        def run(q, k, v, kernel=kernel):
            with sdpa_kernel(kernel):
                return sdpa(q, k, v)

        yield Row(f"dense-sdpa-{name}", EXACT.precision, everything, run)
    yield Row("dense-sdpa", EXACT.precision, everything, sdpa)  # whichever kernel torch chooses
    for name in BACKENDS:
        module = backend_module(name)
        if name == "cudnn" or not hasattr(module, "dense"):  # cudnn's is sdpa's
            continue
        if reason := module.why_not_dense(CALL):
            print(f"  dense-{name}: {reason}", flush=True)
            continue
        run = partial(module.dense, softmax_scale=SCALE)
        yield Row(f"dense-{name}", module.ACCURACY.precision, everything, run)
    if everything.tokens < SLOW:
        run = partial(run_backend, "auto", everything)
        yield Row("auto at density 1", EXACT.precision, everything, run)


def sdpa(q, k, v) -> torch.Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return scaled_dot_product_attention(q, k, v, scale=SCALE).transpose(1, 2)


def comfy_kitchen_rows(everything: Plan):
    """ComfyUI's own: sparse with some thresholds, and dense."""
    try:
        import comfy_kitchen
    except ImportError:
        return
    except Exception as error:  # made for another torch or GPU
        print(f"  comfy-kitchen: {type(error).__name__}: {error}", flush=True)
        return
    if _has(comfy_kitchen, "sol_attn"):
        for tau, name in KITCHEN_SPARSE.items():
            run = partial(comfy_kitchen.sol_attn, tau=tau, scale=SCALE)
            yield Row(name, EIGHT_BIT, everything, run)
    if everything.tokens < LONG and _has(comfy_kitchen, "int8_attention"):

        def dense(q, k, v):
            q, k, v = (x.transpose(1, 2) for x in (q, k, v))
            return comfy_kitchen.int8_attention(q, k, v, scale=SCALE).transpose(1, 2)

        yield Row(KITCHEN_DENSE, EIGHT_BIT, everything, dense)


def _has(comfy_kitchen, name: str) -> bool:
    """Whether this version has the function, and it runs on this GPU."""
    is_available = getattr(comfy_kitchen, f"{name}_is_available", None)
    return is_available is not None and is_available(DEVICE)


def sage_rows(everything: Plan):
    """SageAttention 1 or 2, as installed."""
    if everything.tokens >= LONG or not find_spec("sageattention"):
        return
    try:
        from sageattention import sageattn
    except Exception as error:  # made for another torch or GPU
        print(f"  {SAGE}: {type(error).__name__}: {error}", flush=True)
        return

    def run(q, k, v):
        return sageattn(q, k, v, tensor_layout="NHD", is_causal=False, sm_scale=SCALE)

    yield Row(SAGE, EIGHT_BIT, everything, run, changes_k=True)
