"""What the override knows in a sampler run."""

from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from .adaptive import RunLists
from .host_values import HostValues
from .run_settings import RunSettings
from .token_order import TokenOrder


@dataclass
class RunState:
    """What is known in a sampler run, and forgotten when it ends.

    preferred: model -> that of its passes, see ForwardPass. failure: the error after which the rest
    of the run is dense.
    """

    settings: RunSettings
    lists: RunLists
    host_values: HostValues = field(default_factory=HostValues)
    token_order: TokenOrder = field(default_factory=TokenOrder)
    preferred: WeakKeyDictionary = field(default_factory=WeakKeyDictionary)
    failure: str | None = None
    fast_dense_works: bool = True
