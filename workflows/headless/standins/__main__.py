import importlib
import importlib.util
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])  # ComfyUI

from comfy.cli_args import args  # noqa: E402

args.cpu = True

from . import clips  # noqa: E402
from .weights import write  # noqa: E402

FAMILIES = ["wan", "t5", "loras", "hunyuan", "hunyuan_15", "mochi", "ltx_2"]
if importlib.util.find_spec("comfy.ldm.minimax"):
    FAMILIES += ["minimax_h3"]

for family in FAMILIES:
    write(importlib.import_module(f".{family}", __package__).FILES, Path(sys.argv[2]))
clips.write(Path(sys.argv[2]) / "clips")
