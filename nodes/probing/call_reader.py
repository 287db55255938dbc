"""Measures one attention call after another, for all radial masks and for adaptive lists."""

import logging
import traceback
from collections.abc import Sequence

import torch

from ...radial_core import VideoLayout
from ...radial_core.adaptive.sample import sample_lists
from ...radial_core.masks.radial import RadialPattern
from ...radial_core.measure import CallMeasurement, choose_rows, measure

log = logging.getLogger("radial_attention")


class CallReader:
    """Measures the calls of one run.

    patterns, budgets: what to measure; the adaptive lists are in the place of patterns[current].
    tokens: how many queries of each call. why_not_adaptive: what went wrong with adaptive lists.
    From then on the patterns are measured without them, and `budgets` is empty.
    """

    def __init__(
        self,
        patterns: Sequence[RadialPattern],
        current: int,
        budgets: tuple[float, ...],
        tokens: int,
    ):
        self.budgets, self.why_not_adaptive = budgets, ""
        self._patterns, self._current, self._tokens = patterns, current, tokens
        self._of = self._rows = self._lists = None

    @property
    def densities(self) -> tuple[float, ...]:
        """Kept share of the block map of the last call, for each pattern and each budget."""
        return self._rows.densities + (self._lists.densities if self.budgets else ())

    def read(self, q, k, v, layout: VideoLayout, scale: float | None) -> CallMeasurement:
        """Measure a call of one video. q, k, v: (s, h, d)."""
        self._choose(layout, q.device)
        if not self.budgets:
            return measure(q, k, v, self._rows, scale)
        try:
            return measure(q, k, v, self._rows, scale, lists=self._sample())
        except Exception as error:  # not kept: it would keep tensors alive
            why, details = f"{type(error).__name__}: {error}", traceback.format_exc()
        reading = measure(q, k, v, self._rows, scale)  # if this fails too, it was not the lists
        self.budgets, self.why_not_adaptive = (), why
        log.warning("Radial probe: adaptive lists failed, the rest goes on.\n%s", details)
        return reading

    def _choose(self, layout: VideoLayout, device: torch.device) -> None:
        if self._of != (layout, device):
            self._rows = choose_rows(layout, self._patterns, self._tokens).to(device)
            self._of, self._lists = (layout, device), None

    def _sample(self):
        if self._lists is None:
            layout, device = self._of
            tokens = self._rows.tokens.cpu()
            lists = sample_lists(layout, self._patterns[self._current], tokens, self.budgets)
            self._lists = lists.to(device)
        return self._lists
