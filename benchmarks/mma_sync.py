"""Makes Triton write the code of an RTX card, and its assembler translate that for the GPU at hand.

RTX cards multiply matrices with `mma.sync` and copy with `cp.async`. For an H100 Triton writes
`wgmma` and other copies instead; but an H100 can run the older instructions too. So Triton is told
that the GPU is an Ampere one, up to PTX. ptxas still gets the real one.

All of this is in this process only. What is compiled must not reach Triton's usual cache, which
would take it for Ampere's: set TRITON_CACHE_DIR to a folder of its own before.
"""

import re
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import CUDABackend

AMPERE = 80
MOST_SHARED = 99 * 1024  # bytes of shared memory that a program may have on RTX 30, 40 and 50 cards
TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"


class Compiled(NamedTuple):
    """A kernel. shared: bytes of shared memory of a program."""

    name: str
    ptx: str
    cubin: bytes
    shared: int


def report_ampere(driver) -> None:
    """Triton's driver calls the GPU an Ampere one from now on, whichever it is."""
    driver.get_current_target = lambda: GPUTarget("cuda", AMPERE, 32)


def assemble_for(capability: int) -> list[Compiled]:
    """ptxas makes code for this chip from now on: 90 for an H100.

    Returns a list to which each kernel is added when it is compiled.
    """
    original, compiled = CUDABackend.make_cubin, []

    def make_cubin(self, src, metadata, opt, _):
        cubin = original(self, src, metadata, opt, capability)
        compiled.append(Compiled(metadata["name"], src, cubin, metadata["shared"]))
        return cubin

    CUDABackend.make_cubin = make_cubin
    return compiled


def evidence(compiled: list[Compiled], capability: int) -> dict:
    """What the results say of the kernels of a row: what they are made for, and their instructions.

    Raises RuntimeError if one of them is not what an RTX card would run, or is for another chip.
    """
    counts = dict.fromkeys(("mma.sync", "cp.async", "wgmma"), 0)
    for kernel in compiled:
        if not re.search(rf"^\.target sm_{AMPERE}\b", kernel.ptx, re.MULTILINE):
            raise RuntimeError(f"the PTX of {kernel.name} is not for sm_{AMPERE}")
        for name in counts:
            counts[name] += len(re.findall(rf"\b{re.escape(name)}\b", kernel.ptx))
        assembly = disassembled(kernel.cubin)
        chip = re.search(r"EF_CUDA_SM(\d+)", assembly)[1]
        if chip != str(capability):
            raise RuntimeError(f"{kernel.name} was assembled for sm_{chip}, not sm_{capability}")
        if re.search(r"\b[A-Z]GMMA\b", assembly):  # wgmma, in the chip's own words
            raise RuntimeError(f"{kernel.name} has Hopper's products")
    if counts["wgmma"] or not counts["mma.sync"]:
        raise RuntimeError(f"expected mma.sync and no wgmma in the PTX, found {counts}")
    return {"ptx": f"sm_{AMPERE}", "cubin": f"sm_{capability}", **counts}


def disassembled(cubin: bytes) -> str:
    """By the disassembler that comes with Triton."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        return subprocess.check_output(
            [TOOLS / "nvdisasm", file], text=True, stderr=subprocess.DEVNULL
        )
