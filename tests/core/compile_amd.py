"""Compiles our portable kernels for AMD's GPUs and prints what became of them, as lines of JSON."""

import json
import re
import sys
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

sys.path.insert(0, str(Path(__file__).parents[2]))
from radial_core.kernels import int8, int8_quantize, portable  # noqa: E402
from radial_core.kernels.portable_launch import Tiles  # noqa: E402
from radial_core.kernels.tuning import INT8, TRITON  # noqa: E402

BLOCK, HEAD_DIM = 128, 128
# An Instinct, a Radeon RX 7900 and a Radeon RX 9070: their threads in a warp.
GPUS = {"gfx942": 64, "gfx1100": 32, "gfx1201": 32}


def attend(tiles):
    """The bf16 kernel: its types and constants by name of argument."""
    types = dict.fromkeys(("q_start", "k_start", "v_start", "out"), "*bf16")
    types |= dict.fromkeys(("indptr", "indices", "order"), "*i32")
    types |= {"lse": "*fp32", "scale": "fp32"}
    constants = {"HEAD_DIM": HEAD_DIM, "WIDTH": HEAD_DIM, "BLOCK_SIZE": BLOCK, "LSE": True}
    constants |= {"BLOCK_M": tiles.block_m, "BLOCK_N": tiles.block_n, "STAGES": tiles.stages}
    return portable.attend, types, constants


CODES = dict.fromkeys(("q_codes", "k_codes", "v_codes"), "*i8")
BESIDE_CODES = ("q_scales", "k_scales", "v_scales", "v_mean", "v_deviation", "lse_shift")


def attend_int8(tiles):
    """The same of the 8-bit kernel."""
    types = CODES | dict.fromkeys((*BESIDE_CODES, "lse"), "*fp32") | {"out": "*bf16"}
    types |= dict.fromkeys(("indptr", "indices", "order"), "*i32")
    constants = {"HEAD_DIM": HEAD_DIM, "BLOCK_SIZE": BLOCK, "SUMS": 16, "LSE": True}
    constants |= {"BLOCK_M": tiles.block_m, "BLOCK_N": tiles.block_n, "STAGES": tiles.stages}
    return int8.attend, types, constants


def quantize(tiles):
    """The same of what runs before it, which knows no tiles."""
    types = dict.fromkeys(("q_start", "k_start", "v_start", "rotation"), "*bf16")
    types |= CODES | dict.fromkeys((*BESIDE_CODES, "k_mean"), "*fp32") | {"scale": "fp32"}
    constants = {"HEAD_DIM": HEAD_DIM, "PART": 64, "EACH": 2, "LSE": False}
    return int8_quantize.quantize, types, constants


# With tiles for each GPU.
KERNELS = {
    "triton": (attend, (TRITON.safe, TRITON.elsewhere[0], TRITON.elsewhere[1])),
    "triton_int8": (attend_int8, (INT8.safe, INT8.elsewhere[0], INT8.elsewhere[1])),
    "quantize": (quantize, 3 * (Tiles(0, 0, 4, 1),)),
}


def compiled(describe, tiles, architecture):
    """As Triton compiles for tensors that are aligned and take less than 2 GiB."""
    function, types, constants = describe(tiles)
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
        target=GPUTarget("hip", architecture, GPUS[architecture]),
        options={"num_warps": tiles.warps, "num_stages": tiles.stages},
    )


for kernel, (describe, tiles_for) in KERNELS.items():
    for architecture, tiles in zip(GPUS, tiles_for, strict=True):
        assembly = compiled(describe, tiles, architecture).asm["amdgcn"]
        found = {"kernel": kernel, "architecture": architecture}
        found["products"] = len(re.findall(r"\bv_(?:mfma|wmma)_", assembly))
        found["scratch"] = int(re.search(r"\.private_segment_fixed_size: *(\d+)", assembly)[1])
        print(json.dumps(found))
