"""Every video model in ComfyUI of the families that we support, tiny, with random weights."""

from . import cosmos, hunyuan_video, kandinsky5, lightricks, minimax_h3, mochi, wan, wan21, wan22
from .case import Case, Inputs, sample
from .hunyuan_video import hunyuan_image

_FILES = (wan21, wan22, hunyuan_video, mochi, kandinsky5, minimax_h3, cosmos, lightricks)
CASES = [case for file in _FILES for case in file.CASES]
NAMED = {name: named for file in _FILES for name, named in file.NAMED.items()}
VIDEO_LAYERS = "|".join(file.VIDEO_LAYERS for file in (wan, *_FILES[2:]))

__all__ = ["CASES", "NAMED", "VIDEO_LAYERS", "Case", "Inputs", "hunyuan_image", "sample"]
