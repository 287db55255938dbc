import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])  # ComfyUI

from comfy.cli_args import args  # noqa: E402

args.cpu = True

from . import clips, hunyuan, hunyuan_15, loras, mochi, t5, wan  # noqa: E402
from .weights import write  # noqa: E402

for family in (wan, t5, loras, hunyuan, hunyuan_15, mochi):
    write(family.FILES, Path(sys.argv[2]))
clips.write(Path(sys.argv[2]) / "clips")
