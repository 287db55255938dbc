"""Are the fused norms faster? Each function of radial_core/fused.py and fused_packed.py against
what it replaces.

The operations of torch and comfy-kitchen are the ones that ComfyUI runs, in a block of the real
size. Needs an NVIDIA GPU and the Python of a ComfyUI.

    python benchmarks/fused.py

Writes fused-GPU.json: milliseconds of one call, and the errors against float32.
"""

from collections.abc import Callable
from itertools import chain
from typing import NamedTuple

import comfy_kitchen
import record  # puts the repository on the path
import torch
import torch.nn.functional as F
from torch.utils.benchmark import Timer

from radial_core import fused, fused_packed

DTYPE, EPS, HEAD_DIM = torch.bfloat16, 1e-6, 128
WAN = 69_120, 40  # tokens and heads of 14B at 69 frames, 768p
HUNYUAN = 115_456, 24  # of 117 frames at 768p, with the text
H3 = 109_318, 56  # of 15 s at 768p, with sound and text
H3_WIDTH, H3_FEED_FORWARD, H3_PAIRS, H3_EPS = 5376, 14_336, 48, 1e-5
# Text, some of whose tokens stand for pictures; sound; video. The rows are those of ComfyUI.
H3_SEGMENTS = (0, 20, 1), (20, 40, 0), (40, 256, 1), (256, 1462, 5), (1462, H3[0], 0)


class Case(NamedTuple):
    """ComfyUI's operations, ours, and ComfyUI's in float32, each on the same tensors.

    kitchen: comfy-kitchen's own fusion, where ComfyUI's model doesn't use it. restore: undoes what
    was computed in place.
    """

    name: str
    comfyui: Callable
    ours: Callable
    exact: Callable
    kitchen: Callable | None = None
    restore: Callable = lambda: None


def draw(*shape, dtype=DTYPE):
    return torch.randn(shape, device="cuda", dtype=dtype)


def rotations(tokens: int) -> torch.Tensor:
    """(1, tokens, d / 2, 2, 2)."""
    angles = torch.rand(1, tokens, HEAD_DIM // 2, device="cuda") * 6
    cos, sin = angles.cos(), angles.sin()
    return torch.stack((cos, -sin, sin, cos), dim=-1).unflatten(-1, (2, 2))


def wan_cases():
    (tokens, heads), width = WAN, WAN[1] * HEAD_DIM
    x, weight, freqs = draw(1, tokens, width), draw(width), rotations(tokens)

    def norm_and_rope(x, weight):
        x = F.rms_norm(x, (width,), weight, EPS).view(1, tokens, heads, HEAD_DIM)
        return comfy_kitchen.apply_rope1(x, freqs.unsqueeze(2))

    yield Case(
        "Wan: RMSNorm of all heads, rope",
        lambda: norm_and_rope(x, weight),
        lambda: fused.rms_norm_rope(x.unflatten(2, (heads, -1)), weight, freqs, EPS),
        lambda: norm_and_rope(x.float(), weight.float()),
    )
    scale, shift = draw(2, 1, 1, width)
    yield Case(
        "Wan: LayerNorm, scale, shift",
        lambda: torch.addcmul(shift, F.layer_norm(x, (width,), eps=EPS), 1 + scale),
        lambda: fused.layer_norm_modulate(x, scale, shift, EPS),
        lambda: F.layer_norm(x.float(), (width,), eps=EPS) * (1 + scale.float()) + shift.float(),
    )
    y = draw(1, tokens, width)
    yield Case(
        "Wan: gate, add",
        lambda: torch.addcmul(x, y, scale),
        lambda: fused.add_gated(x, y, scale),
        lambda: x.float() + y.float() * scale.float(),
    )


def hunyuan_cases():
    (tokens, heads), width = HUNYUAN, HUNYUAN[1] * HEAD_DIM
    made, weight, freqs = draw(1, tokens, 7 * width), draw(HEAD_DIM), rotations(tokens)
    q = made[..., : 3 * width].unflatten(2, (3, heads, -1))[:, :, 0]

    def norm_each_and_rope(q, weight):
        q = F.rms_norm(q.transpose(1, 2), (HEAD_DIM,), weight, EPS)
        return comfy_kitchen.apply_rope1(q, freqs.unsqueeze(1)).transpose(1, 2)

    yield Case(
        "HunyuanVideo: RMSNorm of each head, rope",
        lambda: norm_each_and_rope(q, weight),
        lambda: fused.rms_norm_rope(q, weight, freqs, EPS),
        lambda: norm_each_and_rope(q.float(), weight.float()),
        lambda: comfy_kitchen.rms_rope1(q.transpose(1, 2), freqs.unsqueeze(1), weight, EPS),
    )
    attended, mlp = draw(1, tokens, width), made[..., 3 * width :]
    gelu = mlp.clone()  # ours works in place, so it repeats on its own output, at the same speed
    yield Case(
        "HunyuanVideo: attention beside GELU",
        lambda: torch.cat((attended, F.gelu(mlp, approximate="tanh")), dim=2),
        lambda: fused.beside_gelu(attended, made[..., 2 * width :]),
        lambda: torch.cat((attended, F.gelu(gelu.float(), approximate="tanh")), dim=2),
    )


def modulated(x, scale, shift):
    """As MiniMax H3's blocks do it, in place."""
    for start, stop, row in H3_SEGMENTS:
        x[start:stop].mul_(1.0 + scale[row]).add_(shift[row])
    return x


def gated(x, y, gate):
    for start, stop, row in H3_SEGMENTS:
        x[start:stop].addcmul_(y[start:stop], gate[row])
    return x


def h3_norm_cases():
    tokens, shape = H3[0], (H3_WIDTH,)
    x, y, weight = draw(tokens, H3_WIDTH), draw(tokens, H3_WIDTH), draw(H3_WIDTH)
    scale, shift, gate = draw(6, 3 * H3_WIDTH).chunk(3, dim=1)
    operands = weight, scale, shift, H3_SEGMENTS, H3_EPS
    yield Case(
        "MiniMax H3: RMSNorm, scale, shift",
        lambda: modulated(F.rms_norm(x, shape, weight, H3_EPS), scale, shift),
        lambda: fused_packed.rms_norm_modulate(x, *operands),
        lambda: modulated(
            F.rms_norm(x.float(), shape, weight.float(), H3_EPS), scale.float(), shift.float()
        ),
    )
    before = x.clone()
    yield Case(
        "MiniMax H3: gate, add",
        lambda: gated(x, y, gate),
        lambda: fused_packed.add_gated_(x, y, gate, H3_SEGMENTS),
        lambda: gated(x.float(), y.float(), gate.float()),
        restore=lambda: x.copy_(before),
    )


def h3_attention_cases():
    tokens, heads = H3
    qkv, weights = draw(tokens, 3, heads, HEAD_DIM), draw(2, HEAD_DIM)
    freqs, before = rotations(tokens)[0, :, :H3_PAIRS].to(DTYPE).contiguous(), qkv.clone()

    def comfyui():
        q, k = (x.unsqueeze(0) for x in qkv.unbind(1)[:2])
        table = freqs[None, :, None]
        options = {"epsilon": H3_EPS, "rot_dim": 2 * H3_PAIRS}
        comfy_kitchen.rms_rope_split_half_(q, k, table, *weights, **options)
        return qkv[:, :2]

    def ours():
        fused_packed.rms_norm_rope_halves_(qkv[:, :2], weights, freqs, H3_EPS)
        return qkv[:, :2]

    def exact():
        out = torch.empty(tokens, 2, heads, HEAD_DIM, device=qkv.device)
        a, b, c, d = freqs.float().flatten(-2).unsqueeze(1).unbind(-1)
        for x, y, weight in zip(qkv.unbind(1)[:2], out.unbind(1), weights.float(), strict=True):
            y.copy_(F.rms_norm(x.float(), (HEAD_DIM,), weight, H3_EPS))
            first, second = y[..., : 2 * H3_PAIRS].clone().chunk(2, dim=-1)
            y[..., :H3_PAIRS] = a * first + b * second
            y[..., H3_PAIRS : 2 * H3_PAIRS] = c * first + d * second
        return out

    name = "MiniMax H3: RMSNorm of each head of q and k, rope"
    yield Case(name, comfyui, ours, exact, restore=lambda: qkv.copy_(before))


def h3_feed_forward_cases():
    x = draw(H3[0], 2 * H3_FEED_FORWARD)

    def swiglu(x):
        gate, other = x.chunk(2, dim=-1)
        return F.silu(gate).mul_(other)

    yield Case(
        "MiniMax H3: SwiGLU",
        lambda: swiglu(x),
        lambda: fused_packed.swiglu(x),
        lambda: swiglu(x.float()),
    )


def error_of(call, case: Case, truth) -> float:
    case.restore()
    return float(f"{((call() - truth).norm() / truth.norm()).item():.1e}")


def milliseconds(call) -> float:
    return 1e3 * Timer("call()", globals={"call": call}).blocked_autorange(min_run_time=0.2).median


def main():
    makers = wan_cases, hunyuan_cases, h3_norm_cases, h3_attention_cases, h3_feed_forward_cases
    cases = []
    with torch.inference_mode():
        for case in chain.from_iterable(make() for make in makers):
            truth = case.exact()
            errors = [error_of(call, case, truth) for call in (case.comfyui, case.ours)]
            del truth
            found = {
                "name": case.name,
                "comfyui_ms": round(milliseconds(case.comfyui), 2),
                "fused_ms": round(milliseconds(case.ours), 2),
                "comfy_kitchen_fused_ms": case.kitchen and round(milliseconds(case.kitchen), 2),
                "comfyui_error": errors[0],
                "error": errors[1],
            }
            cases.append(found)
            print(found, flush=True)
    record.save(f"fused-{record.gpu_name()}", cases)


if __name__ == "__main__":
    main()
