"""Compiles our kernels for Hopper and prints their resource usage and assembly.

python compile_hopper.py hopper | hopper_int8
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.experimental.gluon import language as gl
from triton.experimental.gluon._runtime import GluonASTSource

sys.path.insert(0, str(Path(__file__).parents[2]))
from radial_core.kernels import hopper, hopper_int8  # noqa: E402

TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
BLOCK = 128
NAMES = {gl.bfloat16: "bf16", gl.float16: "fp16", gl.int8: "i8"}


def matrix(dtype, rows: int, columns: int) -> str:
    layout = gl.NVMMASharedLayout.get_default_for([rows, columns], dtype)
    return f"tensordesc<{NAMES[dtype]}[{rows},{columns}],{layout!r}>"


def types_of(kernel, dtype, head_dim: int) -> dict[str, str]:
    """Of the arguments that are no int32."""
    codes = gl.int8 if kernel is hopper_int8.attend else dtype
    values = (head_dim, BLOCK) if kernel is hopper_int8.attend else (BLOCK, head_dim)
    types = {"Q": matrix(codes, BLOCK // 2, head_dim), "K": matrix(codes, BLOCK, head_dim)}
    types |= {"V": matrix(codes, *values), "out": f"*{NAMES[dtype]}", "scale": "fp32"}
    floats = ("lse", "q_scales", "k_scales", "v_scales", "v_mean", "v_deviation", "lse_shift")
    types |= dict.fromkeys(floats, "*fp32")
    return types | dict.fromkeys(("indptr", "indices", "order"), "*i32")


def compiled(kernel, dtype, head_dim: int, lse: bool):
    types = types_of(kernel, dtype, head_dim)
    constants = {"HEAD_DIM": head_dim, "BLOCK_SIZE": BLOCK, "ONE_LIST": False, "LSE": lse}
    names = kernel.arg_names
    signature = {n: "constexpr" if n in constants else types.get(n, "i32") for n in names}
    sixteens = [n for n in names if signature[n].startswith("*") or n.endswith("column")]
    source = GluonASTSource(
        kernel,
        signature,
        {(names.index(n),): value for n, value in constants.items()},
        {(names.index(n),): [["tt.divisibility", 16]] for n in sixteens},
    )
    options = {"num_warps": 4, "maxnreg": 168, "enable_fp_fusion": True}
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)


def show(binary: bytes):
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        for tool, option in (("cuobjdump", "-res-usage"), ("nvdisasm", "-c")):
            print(subprocess.check_output([TOOLS / tool, option, file.name], text=True))


kernel = {"hopper": hopper, "hopper_int8": hopper_int8}[sys.argv[1]].attend
for dtype, head_dim, lse in (
    (gl.bfloat16, 128, False),
    (gl.float16, 128, True),
    (gl.bfloat16, 64, False),
):
    print("====", dtype, head_dim, lse)
    show(compiled(kernel, dtype, head_dim, lse).asm["cubin"])
