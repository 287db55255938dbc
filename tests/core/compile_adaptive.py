"""Compiles the kernels of the adaptive lists without a GPU, and prints what became of them.

Each line is one kernel in JSON. A process of its own, as it changes Triton.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

folder = tempfile.TemporaryDirectory()
os.environ["TRITON_CACHE_DIR"] = folder.name
sys.path.insert(0, str(Path(__file__).parents[2]))

import torch  # noqa: E402
import triton  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402

torch.version.cuda = torch.version.cuda or "12.8"  # as where the kernels run

from radial_core.kernels import block_mass_launch, repair_launch, unpack_launch  # noqa: E402

TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
CAPABILITIES = (80, 90, 120)
AMD = {"gfx1201": 32}  # threads in a warp; of its GPUs it spills first
TOKENS, HEADS = 75_600, 40


def launched() -> dict:
    """The kernels of a look, of unpacking its lists and of the repair, by name."""
    made = {}

    def compile_only(key, kernel, grid, arguments, **options):
        made[kernel.__name__] = kernel.warmup(*arguments, grid=grid, **options)

    for module in (block_mass_launch, unpack_launch, repair_launch):
        module.launch = compile_only
    blocks = -(-TOKENS // 128)
    k = torch.empty(TOKENS, HEADS, 128, dtype=torch.bfloat16, device="meta")
    hopper = current["target"].arch == 90
    tiles = block_mass_launch.HOPPER_TILES if hopper else block_mass_launch.TILES
    block_mass_launch._log_sums(k[: 32 * 100], k, blocks, 128, 0.1, tiles)
    bits = torch.empty(HEADS, blocks, blocks // 8 + 1, dtype=torch.uint8, device="meta")
    indptr = torch.empty(HEADS, blocks + 1, dtype=torch.int32, device="meta")
    unpack_launch.run(bits, indptr, 1000)
    matrices = torch.empty(1, HEADS, 128, 128, dtype=torch.bfloat16, device="meta")
    repair_launch.run(k[None], matrices)
    return made


def nvidia(kernel) -> dict:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [TOOLS / "cuobjdump", "-res-usage", file.name]
        usage = subprocess.check_output(command, text=True)
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", usage).groups()
    ptx = kernel.asm["ptx"]
    return {
        "registers": int(registers),
        "scratch": int(stack),
        "shared": kernel.metadata.shared,
        "products": len(re.findall(r"wgmma\.mma_async|mma\.sync", ptx)),
    }


def amd(kernel) -> dict:
    assembly = kernel.asm["amdgcn"]
    scratch = int(re.search(r"\.private_segment_fixed_size: *(\d+)", assembly)[1])
    products = len(re.findall(r"\bv_(?:mfma|wmma)_", assembly))
    return {"scratch": scratch, "products": products, "shared": kernel.metadata.shared}


targets = [(GPUTarget("cuda", capability, 32), nvidia) for capability in CAPABILITIES]
if "amd" in triton.backends.backends:
    targets += [(GPUTarget("hip", name, warp), amd) for name, warp in AMD.items()]
current = {}
driver = SimpleNamespace(
    get_current_target=lambda: current["target"],
    get_current_device=lambda: str(current["target"].arch),
    get_current_stream=lambda device: 0,
)
triton.runtime.driver.set_active(driver)
for current["target"], report in targets:
    for name, kernel in launched().items():
        found = {"kernel": name, "architecture": current["target"].arch}
        print(json.dumps(found | report(kernel)))
