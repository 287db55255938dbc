"""One kernel library a file, imported when first used. What such a file defines: contract.py.

Which of them "auto" tries, and in which order: ranking.py.
"""

from functools import cache
from importlib import import_module

from .contract import Backend

# All there are. The node offers them in this order, so a new one goes to the end, before the oracle
# (which the node leaves out).
BACKENDS = (
    "triton",
    "flash_attention",
    "flashinfer",
    "cudnn",
    "flex",
    "sdpa",
    "triton_int8",
    "spargeattn",
    "reference",
)


@cache
def backend_module(name: str) -> Backend:
    return import_module(f".{name}", __package__)


def check_backend_name(backend: str) -> None:
    """Raises ValueError if this is neither "auto" nor the name of a backend."""
    if backend != "auto" and backend not in BACKENDS:
        names = ", ".join(("auto", *BACKENDS))
        raise ValueError(f"backend must be one of {names}, got {backend!r}")
