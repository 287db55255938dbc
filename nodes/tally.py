"""What ran radial and what dense in one sampler run, and why."""

import logging
from collections import Counter

from .models import CROSS_ATTENTION

EVENT = "radial_attention.summary"

log = logging.getLogger("radial_attention")


class Tally:
    """Counts the attention calls of a run; says each reason for a dense call once."""

    def __init__(self):
        self._said = set()
        self.clear()

    def clear(self):
        self.steps = set()
        self.forwards = 0
        self.radial_calls = 0
        self.dense_calls = Counter()  # reason -> calls
        self.plan = None
        self.backend = None

    def forward(self, step: int | None):
        self.forwards += 1
        self.steps.add(self.forwards if step is None else step)

    def radial(self, plan, backend: str):
        self.radial_calls += 1
        self.plan, self.backend = plan, backend

    def dense(self, reason: str, level: int = logging.INFO):
        self.dense_calls[reason] += 1
        if reason not in self._said:
            self._said.add(reason)
            log.log(level, "Radial attention: dense here: %s", reason)

    def summary(self) -> dict:
        """The counts as plain values, with a line for people under "text"."""
        plan = self.plan
        kept = Counter({why: n for why, n in self.dense_calls.items() if why != CROSS_ATTENTION})
        text = (
            f"{len(self.steps)} steps, {self.radial_calls} self-attention calls radial, "
            f"{kept.total()} dense"
        )
        if kept:
            text += f" ({', '.join(f'{why}: {n}' for why, n in kept.most_common())})"
        if plan:
            text += f"; {plan.density:.1%} of the blocks kept, backend {self.backend}"
        return {
            "steps": len(self.steps),
            "model_calls": self.forwards,
            "radial_calls": self.radial_calls,
            "dense_calls": dict(self.dense_calls),
            "density": plan.density if plan else None,
            "video_density": plan.video_density if plan else None,
            "backend": self.backend,
            "text": text,
        }

    def report(self):
        """Log the summary of a run and send it to the page or script that queued it; start anew."""
        if self.forwards:
            summary = self.summary()
            log.info("Radial attention: %s", summary["text"])
            _send(EVENT, summary)
        self.clear()


def _send(event: str, data: dict):
    try:
        from server import PromptServer
    except ImportError:  # ComfyUI used as a library
        return
    server = getattr(PromptServer, "instance", None)
    if server is not None:
        server.send_sync(event, data, server.client_id)
