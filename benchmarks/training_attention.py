"""Attention by itself, forward and backward: dense with each exact kernel, and radial."""

import importlib
from collections.abc import Callable

import torch
from end_to_end_models import PACK
from end_to_end_timing import now
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from training_cases import BLOCK_SIZE, DECAY, SINK_FRAMES, Case

HEAD_DIM, DTYPE = 128, torch.bfloat16
COMFYUI = "sdpa flash"  # the kernel that ComfyUI's default ends up running
LONG, FEW_HEADS = 150_000, 4  # from this many tokens, kernels are compared on few heads
WARM_TOKENS = 8192
SECONDS, MOST_RUNS = 1.0, 10  # a short call is repeated for this long
ONE_IS_ENOUGH = 3.0  # a call of more seconds than this is not repeated


def dense_kernels(device: torch.device) -> dict[str, Callable]:
    """Exact kernels with a backward, (q, k, v) -> out, all (b, s, h, d)."""
    if device.type != "cuda":
        return {"sdpa": _sdpa}
    kernels = {
        COMFYUI: _with(SDPBackend.FLASH_ATTENTION),
        "sdpa cudnn": _with(SDPBackend.CUDNN_ATTENTION),
    }
    try:
        from flash_attn.cute.interface import flash_attn_func
    except ImportError as error:
        print(f"  flash-attn-4 is not installed: {error}", flush=True)
        return kernels

    def flash_attention_4(q, k, v):
        out = flash_attn_func(q, k, v)
        return out[0] if isinstance(out, tuple) else out

    return kernels | {"flash-attn-4": flash_attention_4}


def _sdpa(q, k, v):
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return scaled_dot_product_attention(q, k, v).transpose(1, 2)


def _with(backend: SDPBackend) -> Callable:
    def run(q, k, v):
        with sdpa_kernel(backend):
            return _sdpa(q, k, v)

    return run


def attention_alone(case: Case, heads: int, device: torch.device) -> dict:
    """Milliseconds, forward and backward, of one attention call: each kernel, dense, radial.

    heads: of the model. If fewer are run, times are scaled to all of them.
    """
    core = importlib.import_module(f"{PACK}.radial_core")
    attend = importlib.import_module(f"{PACK}.radial_core.attention").attend
    frames, height, width = case.latent
    patch = case.model.patch
    layout = core.VideoLayout(frames, -(-height // patch), -(-width // patch), prefix=case.prefix)
    plan = core.make_plan(core.RadialPattern(DECAY, SINK_FRAMES, BLOCK_SIZE), layout, device)
    ran = set()

    def radial(q, k, v):
        out, _, backend = attend(q, k, v, plan)
        ran.add(backend)
        return out

    kernels = dense_kernels(device)
    kernel_times = _compare(case, min(heads, case.heads or heads), kernels, device)
    kernel_times = {name: _scaled(times, heads) for name, times in kernel_times.items()}
    fastest = min(kernel_times, key=lambda name: _sum(kernel_times[name]))
    run_heads = case.heads or heads
    dense = kernel_times[fastest]
    if dense["heads"] < run_heads:
        dense = _scaled(_time(kernels[fastest], case.tokens, run_heads, device), heads)
    warm = case.tokens, run_heads  # a plan has one length, and kernels compile for the heads too
    radial_times = _scaled(_time(radial, case.tokens, run_heads, device, warm), heads)
    return {
        "density": round(plan.density, 4),
        "dense_kernel": fastest,
        "dense": dense,
        "radial_backend": ", ".join(sorted(ran)),
        "radial": radial_times,
        "speedup": round(_sum(dense) / _sum(radial_times), 2),
        "kernels": kernel_times,
    }


def _compare(case: Case, heads: int, kernels: dict, device) -> dict[str, dict]:
    """Each kernel's times. One that fails is printed and left out."""
    if case.tokens > LONG:
        heads = min(heads, FEW_HEADS)
    times = {}
    for name, run in kernels.items():
        try:
            times[name] = _time(run, case.tokens, heads, device)
        except Exception as error:
            print(f"  {name}: {type(error).__name__}: {str(error)[:300]}", flush=True)
    return times


def _time(run: Callable, tokens: int, heads: int, device: torch.device, warm=None) -> dict:
    """The fastest forward and backward of several runs. warm: tokens and heads to compile with."""
    _runs(run, *(warm or (min(tokens, WARM_TOKENS), heads)), device, most=1)
    forward, backward = _runs(run, tokens, heads, device, MOST_RUNS)
    return {"heads": heads, "forward_ms": 1e3 * forward, "backward_ms": 1e3 * backward}


def _runs(run: Callable, tokens: int, heads: int, device: torch.device, most: int):
    random = torch.Generator(device).manual_seed(0)
    shape = (1, tokens, heads, HEAD_DIM)
    q, k, v, change = (
        torch.randn(shape, dtype=DTYPE, device=device, generator=random) for _ in range(4)
    )
    leaves = [x.requires_grad_() for x in (q, k, v)]
    forward, backward, spent = [], [], 0.0
    while len(forward) < most and spent < (SECONDS if len(forward) > 1 else ONE_IS_ENOUGH):
        start = now(device)
        out = run(*leaves)
        middle = now(device)
        torch.autograd.grad(out, leaves, change)
        end = now(device)
        forward.append(middle - start)
        backward.append(end - middle)
        spent += end - start
    return min(forward), min(backward)


def _scaled(times: dict, heads: int) -> dict:
    """Times of some heads, scaled to all heads."""
    share = heads / times["heads"]
    return {
        "heads": times["heads"],
        "forward_ms": round(share * times["forward_ms"], 3),
        "backward_ms": round(share * times["backward_ms"], 3),
    }


def _sum(times: dict) -> float:
    return times["forward_ms"] + times["backward_ms"]
