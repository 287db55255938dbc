"""Radial attention: layout, mask, plan, schedule, attention. Knows nothing of ComfyUI."""

from .attention import radial_attention
from .backends import BACKENDS
from .layout import VideoLayout
from .masks.mask import BlockMask
from .masks.per_head import MaskPerHead
from .masks.radial import RadialPattern
from .plan import Plan, make_plan
from .schedule import Schedule

__all__ = [
    "BACKENDS",
    "BlockMask",
    "MaskPerHead",
    "Plan",
    "RadialPattern",
    "Schedule",
    "VideoLayout",
    "make_plan",
    "radial_attention",
]
