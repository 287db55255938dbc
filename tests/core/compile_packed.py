"""Compiles the kernels for packed sequences at MiniMax H3's sizes; prints lines of JSON."""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

sys.path.insert(0, str(Path(__file__).parents[2]))
from radial_core.kernels import packed_norms  # noqa: E402

TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
KERNELS = {  # constants and warps, as fused_packed.py launches them
    "rms_norm_modulate": ({"WIDTH": 8192}, 8),
    "add_gated_rows": ({"WIDTH": 8192}, 4),
    "rms_norm_rope_halves": ({"D": 128, "PAIRS": 48, "HEADS": 64, "HALF": 64}, 8),
    "swiglu": ({"WIDTH": 2048}, 4),
}


def compiled(name: str, capability: int) -> bytes:
    """A cubin, for tensors and strides that are aligned."""
    kernel, (constants, warps) = getattr(packed_norms, name), KERNELS[name]
    names = kernel.arg_names
    types = {"rows_ptr": "*i32", "eps": "fp32"} | dict.fromkeys(constants, "constexpr")
    types = {n: types.get(n, "*bf16" if n.endswith("_ptr") else "i32") for n in names}
    sixteens = [n for n in names if types[n] != "constexpr" and n not in ("eps", "heads")]
    source = ASTSource(
        kernel,
        types,
        {(names.index(n),): value for n, value in constants.items()},
        {(names.index(n),): [["tt.divisibility", 16]] for n in sixteens},
    )
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options={"num_warps": warps}).asm["cubin"]


def tool(name: str, option: str, cubin: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.check_output(
            [TOOLS / name, option, file.name], text=True, stderr=subprocess.DEVNULL
        )


for name in KERNELS:
    for capability in (80, 90):
        cubin = compiled(name, capability)
        usage = tool("cuobjdump", "-res-usage", cubin)
        code = tool("nvdisasm", "-c", cubin)
        registers, stack = map(int, re.search(r"REG:(\d+) STACK:(\d+)", usage).groups())
        found = {"kernel": name, "capability": capability, "registers": registers, "stack": stack}
        moves = re.findall(r"\b(?:LDG|STG)\.[.\w]*", code)
        wide = sum(".128" in move for move in moves)
        print(json.dumps(found | {"wide moves": wide, "other moves": len(moves) - wide}))
