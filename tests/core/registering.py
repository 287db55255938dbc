"""Backends made for a test, registered as a file in radial_core/backends would be."""

import sys

from radial_core import attention, backends, dense, failures, proof
from radial_core.backends import ranking


def register(monkeypatch, ranked=None, **made):
    """Module-shaped objects as the only backends there are, by name.

    ranked: the order in which "auto" tries them; that of `made` if None.
    """
    for name, module in made.items():
        monkeypatch.setitem(sys.modules, f"{backends.__name__}.{name}", module)
    ranked = tuple(made) if ranked is None else tuple(ranked)
    monkeypatch.setattr(backends, "BACKENDS", tuple(made))
    monkeypatch.setattr(ranking, "_fastest_first", lambda call, tokens: ranked)
    monkeypatch.setattr(ranking, "_fastest_dense_first", lambda call: ranked)


def forget():
    """All that a process remembers of backends."""
    backends.backend_module.cache_clear()
    for memory in (
        attention._choices,
        dense._choices,
        failures._reasons,
        failures._failed_runs,
        failures._logged,
        proof._verdicts,
        proof._tries,
    ):
        memory.clear()
