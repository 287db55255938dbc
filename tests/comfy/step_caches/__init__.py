"""Step caches that people run: ComfyUI's own nodes, and small stand-ins for packs.

A stand-in takes hold of the model where its pack does (TeaCache, MagCache, Comfy-WaveSpeed,
cache-dit), and decides as simply as it can. All are functions MODEL -> MODEL.
"""

from .cache_dit import cache_dit
from .core import easy_cache, lazy_cache
from .magcache import magcache
from .teacache import teacache
from .wavespeed import wavespeed

__all__ = ["cache_dit", "easy_cache", "lazy_cache", "magcache", "teacache", "wavespeed"]
