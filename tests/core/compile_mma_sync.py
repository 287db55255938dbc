"""Compiles as benchmarks/attention_mma_sync.py does, without a GPU, and prints what came of it.

    python compile_mma_sync.py ampere   as it does
    python compile_mma_sync.py hopper   if Triton were not told that the GPU is an Ampere one

Each line is the name of a kernel and what mma_sync.evidence says of it, with the products that the
chip's own code has. A process of its own, as it changes Triton.
"""

import os
import re
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

folder = tempfile.TemporaryDirectory()
os.environ["TRITON_CACHE_DIR"] = folder.name
ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import mma_sync  # noqa: E402
import torch  # noqa: E402
import triton  # noqa: E402
import triton.language as tl  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.runtime.jit import MockTensor  # noqa: E402

from radial_core.kernels.portable import attend  # noqa: E402


@triton.jit
def int8_product(a, b, out):
    rows = tl.arange(0, 64)
    place = rows[:, None] * 64 + rows[None, :]
    tl.store(out + place, tl.dot(tl.load(a + place), tl.load(b + place)))


def compile_portable():
    q, lists = MockTensor(torch.bfloat16), MockTensor(torch.int32)
    tensors = (q, q, q, q, q, lists, lists, lists)
    strides = (1024, 128, 16) * 3
    constants = (128, 128, 128, 128, 64, 2, False)
    options = {"num_warps": 4, "num_stages": 2}
    attend.warmup(*tensors, 0, 1024, 8, 0.1, *strides, *constants, grid=(1,), **options)


def compile_int8():
    a, out = MockTensor(torch.int8), MockTensor(torch.int32)
    int8_product.warmup(a, a, out, grid=(1,))


driver = SimpleNamespace(
    get_current_target=lambda: GPUTarget("cuda", 90, 32),
    get_current_device=lambda: 0,
    get_current_stream=lambda device: 0,
)
triton.runtime.driver.set_active(driver)
if sys.argv[1] == "ampere":
    mma_sync.report_ampere(driver)
compiled = mma_sync.assemble_for(90)
for compile_kernel in (compile_portable, compile_int8):
    compiled.clear()
    compile_kernel()
    (kernel,) = compiled
    try:
        said = mma_sync.evidence(compiled, 90)
    except RuntimeError as error:
        said = error
    products = sorted(set(re.findall(r"\b[A-Z]*MMA\b", mma_sync.disassembled(kernel.cubin))))
    print(f"{kernel.name} {kernel.shared > 0} {said} {products}")
