"""A backend proves itself on the device at hand before it may touch a render.

Kernel libraries come in many versions, for many GPUs, and some run dense, or attend to padding,
where they should refuse. So each backend computes one small odd-shaped case for every kind of call
that reaches it, once per process. Its error against the oracle must stay within the tolerance that
the backend states itself (backends/contract.py).
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import torch

from . import failures
from .backends import backend_module
from .backends.contract import Accuracy
from .call import Call, is_out_of_memory, on_device
from .layout import VideoLayout
from .masks.mask import BlockMask
from .masks.per_head import MaskPerHead
from .masks.radial import RadialPattern
from .plan import Plan, make_plan
from .reference import reference_attention, reference_lse

# Text on both sides, frames that straddle blocks, a tail that fills no block, and a quarter of the
# blocks dropped: a kernel that keeps them anyway is wrong by half. Small, as it is computed in the
# middle of a pass, and the oracle takes memory in tokens squared: 35 MiB.
LAYOUT = VideoLayout(10, 9, 11, prefix=77, suffix=60)
DECAY = 0.1
SINKS = (0, 3)  # of the two heads, in a call with lists per head
TRUSTED = ("sdpa", "reference")  # torch's own attention on gathered keys, and the oracle itself
LARGE_FACTOR = 30.0  # on q and k: logits in the thousands
MOST_TRIES = 3  # in a run, of a proof that lacks memory: each costs time in the middle of a render

log = logging.getLogger("radial_attention")

_verdicts: dict[tuple[str, Call], str | None] = {}
_tries: Counter[tuple[str, Call]] = Counter()
_lock = threading.Lock()


def proof_failure(name: str, call: Call) -> str | None:
    """Why a backend failed its proof for such a call; None if it passed, now or earlier."""
    if name in TRUSTED:
        return None
    backend = backend_module(name)
    return verdict(name, call, backend.run, backend.ACCURACY)


def verdict(
    name: str, call: Call, run: Callable, accuracy: Accuracy, mask: BlockMask | None = None
) -> str | None:
    """`fault_of` as a sentence, found and logged once per process for a name and a kind of call.

    An error is no verdict: the answer is kept for the rest of the run only. Where memory was
    lacking, the next answer in the same run may be another one: see `is_provisional`.
    """
    key = (name, call)
    if key not in _verdicts:
        with _lock:
            if key not in _verdicts:
                return _prove(name, call, run, accuracy, mask)
    return _verdicts[key]


def is_provisional(name: str, call: Call) -> bool:
    """Whether the proof lacked memory, and will be tried again in this run."""
    return (name, call) not in _verdicts and 0 < _tries[name, call] < MOST_TRIES


def forget_tries() -> None:
    """For the next run, which may have more memory."""
    _tries.clear()


def _prove(
    name: str, call: Call, run: Callable, accuracy: Accuracy, mask: BlockMask | None
) -> str | None:
    proof = f"proof of {name}"
    if _tries[name, call] >= MOST_TRIES:
        return f"{name} lacked the memory for its proof {MOST_TRIES} times"
    if failed := failures.earlier(proof, call):
        return failed
    start = time.perf_counter()
    try:
        fault = fault_of(run, call, accuracy, mask)
    except Exception as error:
        return _not_proven(name, call, proof, error)
    seconds = time.perf_counter() - start
    failures.worked(proof, call)
    if fault is None:
        log.info("Backend %s is %s on %s (%.1f s)", name, _closeness(accuracy, call), call, seconds)
    else:
        log.warning("Backend %s is not used on %s: %s (%.1f s)", name, call, fault, seconds)
        fault = f"{name} failed its proof on {call}: {fault}"
    _verdicts[name, call] = fault
    return fault


def _closeness(accuracy: Accuracy, call: Call) -> str:
    return "exact" if accuracy.exact else f"within {100 * accuracy.tolerance[call.dtype]:g} %"


def _not_proven(name: str, call: Call, proof: str, error: Exception) -> str:
    """Why a backend is not used, as its proof raised an error."""
    new = failures.is_new(proof, call, error)
    if is_out_of_memory(error):
        _tries[name, call] += 1
        if new:
            log.info("Backend %s lacks the memory for its proof: %s", name, error)
        return f"{name} lacks the memory for its proof"
    fault = f"{type(error).__name__}: {error}"
    if new:
        log.warning("Backend %s is not used on %s: %s", name, call, fault)
        log.debug("Backend %s failed its proof", name, exc_info=error)
    reason = f"{name} failed its proof on {call}: {fault}"
    failures.turn_off(proof, call, reason)
    return reason


def fault_of(
    run: Callable, call: Call, accuracy: Accuracy, mask: BlockMask | None = None
) -> str | None:
    """What is wrong with a backend's `run` on the small case, for such a call; None if nothing.

    mask: one that drops some blocks, in each head others if the call has lists per head, if None.
    """
    tolerance = accuracy.tolerance.get(call.dtype)
    if tolerance is None:
        return f"it states no tolerance for {call.dtype}"
    mask = mask or _mask(call)
    # ComfyUI samples in inference mode, where gradients can't be tried, and trains with autocast.
    with (
        torch.inference_mode(False),
        torch.set_grad_enabled(call.grad),
        torch.autocast(call.device.type, enabled=False),
        on_device(call.device),
    ):
        plan = make_plan(mask, LAYOUT, call.device)
        q, k, v, weight = _draw(call)
        fault = _fault_on(run, call, plan, q, k, v, weight, tolerance)
        if fault is None:
            with torch.no_grad():
                fault = _fault_on_other_inputs(run, call, plan, q, k, v, accuracy)
    return fault


def _fault_on_other_inputs(
    run: Callable, call: Call, plan: Plan, q, k, v, accuracy: Accuracy
) -> str | None:
    """Heads first in memory, and large logits: at once for exact backends.

    Where logits are in the thousands, the rounding of q and k decides which key wins, so there an
    approximate backend need only stay finite.
    """
    plain, tolerance = replace(call, grad=False), accuracy.tolerance[call.dtype]
    cases = {"with large logits, heads first in memory": (LARGE_FACTOR, tolerance)}
    if not accuracy.exact:
        cases = {
            "heads first in memory": (1.0, tolerance),
            "with large logits": (LARGE_FACTOR, float("inf")),
        }
    for case, (factor, tolerance) in cases.items():
        qkv = (_heads_first(x) for x in (factor * q, factor * k, v))
        if fault := _fault_on(run, plain, plan, *qkv, None, tolerance):
            return f"{case}, {fault}"
    return None


def _mask(call: Call) -> BlockMask:
    if not call.per_head:
        return RadialPattern(DECAY, 1, call.block_size)
    return MaskPerHead(tuple(RadialPattern(DECAY, sink, call.block_size) for sink in SINKS))


def _draw(call: Call) -> list[torch.Tensor]:
    # A generator of our own: the user's seed must give the same video with and without a proof.
    random = torch.Generator(call.device).manual_seed(0)
    shape = (4, 2, LAYOUT.tokens, 2, call.head_dim)  # q, k, v and a weight of 2 batches and 2 heads
    drawn = torch.randn(shape, generator=random, device=call.device).to(call.dtype)
    return [x.detach().requires_grad_(call.grad) for x in drawn.unbind(0)]


def _heads_first(x: torch.Tensor) -> torch.Tensor:
    """The same (b, s, h, d) tensor, in memory as (b, h, s, d)."""
    return x.transpose(1, 2).contiguous().transpose(1, 2)


def _fault_on(
    run: Callable, call: Call, plan: Plan, q, k, v, weight, tolerance: float
) -> str | None:
    """weight: of the output in the sum whose gradients are compared, if call.grad."""
    scale = call.head_dim**-0.5
    out, lse = run(q, k, v, plan, scale, call.lse)
    oracle = _oracle_device(call.device)
    plan = make_plan(plan.mask, plan.layout, oracle)
    exact_q, exact_k, exact_v = (x.to(oracle) for x in (q, k, v))
    truth = reference_attention(exact_q, exact_k, exact_v, plan, scale)
    compared = [("output", out, truth)]
    if call.lse:
        exact_lse = reference_lse(exact_q, exact_k, plan, scale)
        compared.append(("lse", lse, exact_lse))
    if call.grad:
        total = (out * weight.to(out.dtype)).sum()
        exact_total = (truth * weight.to(oracle).double()).sum()
        if call.lse:
            total, exact_total = total + lse.sum(), exact_total + exact_lse.sum()
        ours = torch.autograd.grad(total, (q, k, v))
        true = torch.autograd.grad(exact_total, (q, k, v))
        compared += [(f"gradient of {x}", a, b) for x, a, b in zip("qkv", ours, true, strict=True)]
    for what, ours, true in compared:
        if ours.shape != true.shape:
            return f"its {what} is {tuple(ours.shape)}, expected {tuple(true.shape)}"
        if not ours.isfinite().all():
            return f"its {what} is not finite"
        ours, true = ours.to(oracle).double(), true.to(oracle)
        error = ((ours - true).norm() / true.norm()).item()
        if error > tolerance:
            return (
                f"the relative error of its {what} is {error:.1e}, at most {tolerance:.1e} allowed"
            )
    return None


def _oracle_device(device: torch.device) -> torch.device:
    """Where float64 is: many GPUs of Intel have none."""
    return torch.device("cpu") if device.type == "xpu" else device
