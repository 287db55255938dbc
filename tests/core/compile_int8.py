"""Compiles our 8-bit kernels for NVIDIA's cards, without one, and prints what became of them.

Each line is one kernel in JSON, as int8_launch.py launches it for a pass of Wan 14B: what it takes
of a multiprocessor, and how often each instruction is in it and in its main loop. A process of its
own, as it changes Triton.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

folder = tempfile.TemporaryDirectory()
os.environ["TRITON_CACHE_DIR"] = folder.name
sys.path.insert(0, str(Path(__file__).parents[2]))

import torch  # noqa: E402
import triton  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402

torch.version.cuda = torch.version.cuda or "12.8"  # as where the kernels run

from radial_core.kernels import int8_launch  # noqa: E402
from radial_core.kernels.tuning import INT8  # noqa: E402

TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
CAPABILITIES = (80, 86, 89, 120)
# By head_dim. More stages only load further ahead.
TILES = {128: [tiles for tiles in INT8.candidates[128] if tiles.stages <= 3]}
TILES[64] = TILES[128][-1:]
BLOCK, TOKENS, HEADS = 128, 75_600, 40


def compiled(tiles, head_dim: int) -> dict:
    """The kernels of a call, by name."""
    made = {}

    def compile_only(key, kernel, grid, arguments, **options):
        if kernel is not int8_launch.statistics:
            made[kernel.__name__] = kernel.warmup(*arguments, grid=grid, **options)

    int8_launch.launch = compile_only
    q = torch.empty(1, TOKENS, HEADS, head_dim, dtype=torch.bfloat16, device="meta")
    blocks = -(-TOKENS // BLOCK)
    shapes = ((1, blocks + 1), (blocks,), (blocks,))
    lists = (torch.empty(shape, dtype=torch.int32, device="meta") for shape in shapes)
    int8_launch.run(tiles, q, q, q, *lists, BLOCK, head_dim**-0.5, False)
    return made


def report(kernel) -> dict:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage, assembly = (
            subprocess.check_output([TOOLS / tool, option, file.name], text=True)
            for tool, option in (("cuobjdump", "-res-usage"), ("nvdisasm", "-c"))
        )
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", usage).groups()
    lines = assembly.splitlines()
    return {
        "registers": int(registers),
        "stack": int(stack),
        "shared": kernel.metadata.shared,
        "instructions": count(lines),
        "loop": count(main_loop(lines)),
    }


def main_loop(lines: list[str]) -> list[str]:
    """From a label to the first jump back to it, with at least 32 products between; or nothing."""
    labels = {}
    for i, line in enumerate(lines):
        if label := re.match(r"\s*(\.L\w+):", line):
            labels[label[1]] = i
        jump = re.search(r"\bBRA\b.*`\((\.L\w+)\)", line)
        if jump and jump[1] in labels:
            body = lines[labels[jump[1]] : i]
            if sum("MMA." in each for each in body) >= 32:
                return body
    return []


def count(lines: list[str]) -> dict[str, int]:
    found = (re.search(r"\*/\s+(?:@!?U?P\w+\s+)?([A-Z]\w*[\w.]*)", line) for line in lines)
    return dict(Counter(each[1] for each in found if each))


target = {}
driver = SimpleNamespace(
    get_current_target=lambda: GPUTarget("cuda", target["capability"], 32),
    get_current_device=lambda: target["capability"],
    get_current_stream=lambda device: 0,
)
triton.runtime.driver.set_active(driver)
for target["capability"] in CAPABILITIES:
    for head_dim, candidates in TILES.items():
        case = target | {"head_dim": head_dim}
        for tiles in candidates:
            made = compiled(tiles, head_dim)
            print(json.dumps({"kernel": "attend", "tiles": tiles} | case | report(made["attend"])))
        # Knows no tiles.
        print(json.dumps({"kernel": "quantize"} | case | report(made["quantize"])))
