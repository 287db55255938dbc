"""Compiles our portable kernels for AMD's GPUs and prints what became of them, as lines of JSON."""

import json
import re
import sys
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

sys.path.insert(0, str(Path(__file__).parents[2]))
from radial_core.kernels import portable  # noqa: E402
from radial_core.kernels.tuning import TRITON  # noqa: E402

BLOCK, HEAD_DIM = 128, 128
# An Instinct, a Radeon RX 7900 and a Radeon RX 9070: their threads in a warp, and tiles for them.
GPUS = {
    "gfx942": (64, TRITON.safe),
    "gfx1100": (32, TRITON.elsewhere[0]),
    "gfx1201": (32, TRITON.elsewhere[1]),
}


def attend(tiles):
    """The bf16 kernel: its types and constants by name of argument."""
    types = dict.fromkeys(("q_start", "k_start", "v_start", "out"), "*bf16")
    types |= dict.fromkeys(("indptr", "indices", "order"), "*i32")
    types |= {"lse": "*fp32", "scale": "fp32"}
    constants = {"HEAD_DIM": HEAD_DIM, "WIDTH": HEAD_DIM, "BLOCK_SIZE": BLOCK, "LSE": True}
    constants |= {"BLOCK_M": tiles.block_m, "BLOCK_N": tiles.block_n, "STAGES": tiles.stages}
    return portable.attend, types, constants


KERNELS = {"triton": attend}


def compiled(kernel, architecture):
    """As Triton compiles for tensors that are aligned and take less than 2 GiB."""
    warp, tiles = GPUS[architecture]
    function, types, constants = KERNELS[kernel](tiles)
    names = function.arg_names
    signature = {n: "constexpr" if n in constants else types.get(n, "i32") for n in names}
    sixteens = [n for n in names if n.endswith(("_batch", "_token", "_head"))]
    attributes = {(names.index(n),): [["tt.divisibility", 16]] for n in sixteens}
    pointers = [n for n in names if signature[n].startswith("*")]
    small = [["tt.divisibility", 16], ["tt.pointer_range", 32]]
    attributes |= {(names.index(n),): small for n in pointers}
    values = {(names.index(n),): value for n, value in constants.items()}
    return triton.compile(
        ASTSource(function, signature, values, attributes),
        target=GPUTarget("hip", architecture, warp),
        options={"num_warps": tiles.warps, "num_stages": tiles.stages},
    )


for kernel in KERNELS:
    for architecture in GPUS:
        assembly = compiled(kernel, architecture).asm["amdgcn"]
        found = {"kernel": kernel, "architecture": architecture}
        found["products"] = len(re.findall(r"\bv_(?:mfma|wmma)_", assembly))
        found["scratch"] = int(re.search(r"\.private_segment_fixed_size: *(\d+)", assembly)[1])
        print(json.dumps(found))
