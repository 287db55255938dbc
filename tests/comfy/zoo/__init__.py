"""Every video model in ComfyUI of the families that we support, tiny, with random weights."""

from . import hunyuan_video, mochi, wan21, wan22
from .case import Case, Inputs, sample
from .hunyuan_video import hunyuan_image

CASES = [*wan21.CASES, *wan22.CASES, *hunyuan_video.CASES, *mochi.CASES]

__all__ = ["CASES", "Case", "Inputs", "hunyuan_image", "sample"]
