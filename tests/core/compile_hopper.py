"""Compiles radial_core/kernels/hopper.py for an H100 and prints its resource usage and assembly."""

import subprocess
import sys
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.experimental.gluon import language as gl
from triton.experimental.gluon._runtime import GluonASTSource

sys.path.insert(0, str(Path(__file__).parents[2]))
from radial_core.kernels import hopper  # noqa: E402

TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
BLOCK = 128


def compiled(dtype, head_dim: int, lse: bool):
    name = {gl.bfloat16: "bf16", gl.float16: "fp16"}[dtype]

    def tensor(rows):
        layout = gl.NVMMASharedLayout.get_default_for([rows, head_dim], dtype)
        return f"tensordesc<{name}[{rows},{head_dim}],{layout!r}>"

    types = {"Q": tensor(BLOCK // 2), "K": tensor(BLOCK), "V": tensor(BLOCK)}
    types |= {"out": f"*{name}", "lse": "*fp32", "scale": "fp32"}
    types |= dict.fromkeys(("indptr", "indices", "order"), "*i32")
    constants = {"HEAD_DIM": head_dim, "BLOCK_SIZE": BLOCK, "ONE_LIST": False, "LSE": lse}
    names = hopper.attend.arg_names
    signature = {n: "constexpr" if n in constants else types.get(n, "i32") for n in names}
    sixteens = [n for n in names if signature[n].startswith("*") or n.endswith("column")]
    source = GluonASTSource(
        hopper.attend,
        signature,
        {(names.index(n),): value for n, value in constants.items()},
        {(names.index(n),): [["tt.divisibility", 16]] for n in sixteens},
    )
    return triton.compile(
        source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4, "maxnreg": 168}
    )


def show(binary: bytes):
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        for tool, option in (("cuobjdump", "-res-usage"), ("nvdisasm", "-c")):
            print(subprocess.check_output([TOOLS / tool, option, file.name], text=True))


for dtype, head_dim, lse in (
    (gl.bfloat16, 128, False),
    (gl.float16, 128, True),
    (gl.bfloat16, 64, False),
):
    print("====", dtype, head_dim, lse)
    show(compiled(dtype, head_dim, lse).asm["cubin"])
