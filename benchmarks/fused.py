"""Are the fused norms faster? Each function of radial_core/fused.py against what it replaces.

The operations of torch and comfy-kitchen are the ones that ComfyUI runs, in a block of the real
size. Needs an NVIDIA GPU and the Python of a ComfyUI.

    python benchmarks/fused.py

Writes fused-GPU.json: milliseconds of one call, and the error against float32.
"""

from itertools import chain

import comfy_kitchen
import record  # puts the repository on the path
import torch
import torch.nn.functional as F
from torch.utils.benchmark import Timer

from radial_core import fused

DTYPE, EPS, HEAD_DIM = torch.bfloat16, 1e-6, 128
WAN = 69_120, 40  # tokens and heads of 14B at 69 frames, 768p
HUNYUAN = 115_456, 24  # of 117 frames at 768p, with the text


def draw(*shape, dtype=DTYPE):
    return torch.randn(shape, device="cuda", dtype=dtype)


def rotations(tokens: int) -> torch.Tensor:
    """(1, tokens, d / 2, 2, 2)."""
    angles = torch.rand(1, tokens, HEAD_DIM // 2, device="cuda") * 6
    cos, sin = angles.cos(), angles.sin()
    return torch.stack((cos, -sin, sin, cos), dim=-1).unflatten(-1, (2, 2))


def wan_cases():
    """Name, ComfyUI's operations, ours, float32 ones, and comfy-kitchen's own fusion or None."""
    (tokens, heads), width = WAN, WAN[1] * HEAD_DIM
    x, weight, freqs = draw(1, tokens, width), draw(width), rotations(tokens)

    def norm_and_rope(x, weight):
        x = F.rms_norm(x, (width,), weight, EPS).view(1, tokens, heads, HEAD_DIM)
        return comfy_kitchen.apply_rope1(x, freqs.unsqueeze(2))

    yield (
        "Wan: RMSNorm of all heads, rope",
        lambda: norm_and_rope(x, weight),
        lambda: fused.rms_norm_rope(x.unflatten(2, (heads, -1)), weight, freqs, EPS),
        lambda: norm_and_rope(x.float(), weight.float()),
        None,
    )
    scale, shift = draw(2, 1, 1, width)
    yield (
        "Wan: LayerNorm, scale, shift",
        lambda: torch.addcmul(shift, F.layer_norm(x, (width,), eps=EPS), 1 + scale),
        lambda: fused.layer_norm_modulate(x, scale, shift, EPS),
        lambda: F.layer_norm(x.float(), (width,), eps=EPS) * (1 + scale.float()) + shift.float(),
        None,
    )
    y = draw(1, tokens, width)
    yield (
        "Wan: gate, add",
        lambda: torch.addcmul(x, y, scale),
        lambda: fused.add_gated(x, y, scale),
        lambda: x.float() + y.float() * scale.float(),
        None,
    )


def hunyuan_cases():
    """Like `wan_cases`."""
    (tokens, heads), width = HUNYUAN, HUNYUAN[1] * HEAD_DIM
    made, weight, freqs = draw(1, tokens, 7 * width), draw(HEAD_DIM), rotations(tokens)
    q = made[..., : 3 * width].unflatten(2, (3, heads, -1))[:, :, 0]

    def norm_each_and_rope(q, weight):
        q = F.rms_norm(q.transpose(1, 2), (HEAD_DIM,), weight, EPS)
        return comfy_kitchen.apply_rope1(q, freqs.unsqueeze(1)).transpose(1, 2)

    yield (
        "HunyuanVideo: RMSNorm of each head, rope",
        lambda: norm_each_and_rope(q, weight),
        lambda: fused.rms_norm_rope(q, weight, freqs, EPS),
        lambda: norm_each_and_rope(q.float(), weight.float()),
        lambda: comfy_kitchen.rms_rope1(q.transpose(1, 2), freqs.unsqueeze(1), weight, EPS),
    )
    attended, mlp = draw(1, tokens, width), made[..., 3 * width :]
    gelu = mlp.clone()  # ours works in place, so it repeats on its own output, at the same speed
    yield (
        "HunyuanVideo: attention beside GELU",
        lambda: torch.cat((attended, F.gelu(mlp, approximate="tanh")), dim=2),
        lambda: fused.beside_gelu(attended, made[..., 2 * width :]),
        lambda: torch.cat((attended, F.gelu(gelu.float(), approximate="tanh")), dim=2),
        None,
    )


def milliseconds(call) -> float:
    return 1e3 * Timer("call()", globals={"call": call}).blocked_autorange(min_run_time=0.2).median


def main():
    cases = []
    with torch.inference_mode():
        for name, comfyui, ours, exact, kitchen in chain(wan_cases(), hunyuan_cases()):
            truth = exact()
            error = ((ours() - truth).norm() / truth.norm()).item()
            case = {
                "name": name,
                "comfyui_ms": round(milliseconds(comfyui), 2),
                "fused_ms": round(milliseconds(ours), 2),
                "comfy_kitchen_fused_ms": kitchen and round(milliseconds(kitchen), 2),
                "error": float(f"{error:.1e}"),
            }
            del truth
            cases.append(case)
            print(case, flush=True)
    record.save(f"fused-{record.gpu_name()}", cases)


if __name__ == "__main__":
    main()
