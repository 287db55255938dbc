"""Radial attention: layout, pattern, plan, schedule, attention. Knows nothing of ComfyUI."""

from .attention import BACKENDS, radial_attention
from .layout import VideoLayout
from .masks.radial import RadialPattern
from .plan import Plan, make_plan
from .schedule import Schedule

__all__ = [
    "BACKENDS",
    "Plan",
    "RadialPattern",
    "Schedule",
    "VideoLayout",
    "make_plan",
    "radial_attention",
]
