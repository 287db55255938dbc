"""How long does Radial Mask Preview take, at any length? The whole node with its file, one core.

Needs the Python of your ComfyUI:

    python benchmarks/preview.py --comfyui FOLDER
"""

import argparse
import importlib
import resource
import sys
import tempfile
import time
from pathlib import Path

import record
import torch
from end_to_end_models import PACK, radial_node, start_comfyui

RUNS = 9
# model, width, height, length
CASES = [
    ("Wan 2.1 1.3B", 832, 480, 17),
    ("Wan 2.1 14B", 832, 480, 81),
    ("Wan 2.2 5B", 1280, 704, 121),
    ("HunyuanVideo", 1280, 768, 117),
    ("HunyuanVideo 1.5", 1280, 720, 121),
    ("Wan 2.1 14B", 1280, 720, 161),
    ("Mochi", 848, 480, 667),
    ("HunyuanVideo", 1280, 720, 509),
    ("Wan 2.1 14B", 3840, 2160, 81),
    ("Wan 2.1 14B", 832, 480, 10_001),
    ("Wan 2.1 14B", 3840, 2160, 509),
    ("Wan 2.1 14B", 832, 480, 100_000),
    ("Wan 2.1 14B", 3840, 2160, 100_000),
]


def memory_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def measure(node, before: float, model: str, width: int, height: int, length: int) -> dict:
    preset = {"decay": 0.0, "sink_frames": -1, "dense_blocks": -1, "block_size": 128}
    seconds = []
    for _ in range(RUNS):
        start = time.perf_counter()
        out = node.execute(model, width, height, length, **preset)
        seconds.append(time.perf_counter() - start)
    row = {
        "model": model,
        "size": f"{width} x {height}",
        "frames": length,
        "first_ms": round(1000 * seconds[0], 1),
        "median_ms": round(1000 * sorted(seconds)[RUNS // 2], 1),
        "most_ms": round(1000 * max(seconds), 1),
        "density": round(out.args[2], 5),
        "extra_mib": round(memory_mib() - before, 1),  # the peak so far
    }
    print(row, flush=True)
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    beside = Path(sys.prefix).parent / "ComfyUI"
    parser.add_argument("--comfyui", type=Path, default=beside, help="ComfyUI's folder")
    _, version = start_comfyui(parser.parse_args().comfyui.resolve())
    radial_node()  # loads the pack
    node = importlib.import_module(f"{PACK}.nodes.preview").RadialMaskPreview
    import folder_paths  # ComfyUI's

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        folder_paths.set_temp_directory(folder)
        before = memory_mib()
        rows = [measure(node, before, *case) for case in CASES]
    sys.argv = sys.argv[:1]  # keep the path of ComfyUI out of the results
    record.save("preview-cpu", rows, comfyui=version, threads=1)


if __name__ == "__main__":
    main()
