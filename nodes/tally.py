"""What ran radial and what dense in one sampler run, and why."""

import logging
import sys
from collections import Counter
from dataclasses import asdict

from ..radial_core import RadialPattern, Schedule
from .models import OTHERS

EVENT = "radial_attention.summary"

log = logging.getLogger("radial_attention")


class Tally:
    """Counts the attention calls of a run; says each reason for a dense call once."""

    def __init__(self):
        self._said = set()
        self.clear()

    def clear(self):
        self.steps = set()
        self.model_calls = 0
        self.dense_calls = Counter()  # reason -> calls
        self.dense_backends = Counter()  # kernel, if not ComfyUI's own -> calls
        self.densities = []  # of each radial call
        self.backend = None
        self.settings = {}
        self.authors = None

    def use(self, pattern: RadialPattern, schedule: Schedule, authors: str | None):
        """The settings of a forward pass. authors: whose, if any of them is not the user's own."""
        self.settings = {**asdict(schedule), "sink_frames": pattern.sink_frames}
        self.settings |= {"decay": pattern.decay, "block_size": pattern.block_size}
        self.authors = authors

    def forward(self, step: int | None):
        self.model_calls += 1
        self.steps.add(self.model_calls if step is None else step)

    def radial(self, density: float, backend: str):
        self.densities.append(density)
        self.backend = backend

    def dense(self, reason: str, backend: str | None = None):
        """A dense call. backend: the kernel, if it was not what ComfyUI would have run."""
        self.dense_calls[reason] += 1
        if backend is not None:
            self.dense_backends[backend] += 1
        self.say_once(reason, logging.INFO, "Radial attention: dense here: %s", reason)

    def say_once(self, key: str, level: int, message: str, *arguments, **options):
        if key not in self._said:
            self._said.add(key)
            log.log(level, message, *arguments, **options)

    def summary(self) -> dict:
        """The counts as plain values, with a line for people under "text"."""
        radial = len(self.densities)
        density = sum(self.densities) / radial if radial else None
        dense = Counter({why: n for why, n in self.dense_calls.items() if why not in OTHERS})
        text = (
            f"{len(self.steps)} steps, {radial} self-attention calls radial, {dense.total()} dense"
        )
        if dense:
            text += f" ({', '.join(f'{why}: {n}' for why, n in dense.most_common())})"
        if self.dense_backends:
            text += f", dense by {', '.join(self.dense_backends)}"
        if not radial and not self.dense_calls:
            text += (
                ": no call reached this node. torch.compile may have kept a graph from before it"
            )
        if radial:
            text += f"; {density:.1%} of the blocks kept, backend {self.backend}"
        if self.authors:
            values = ", ".join(f"{name} {value}" for name, value in self.settings.items())
            text += f"; settings for {self.authors}: {values}"
        return {
            "steps": len(self.steps),
            "model_calls": self.model_calls,
            "radial_calls": radial,
            "dense_calls": dict(self.dense_calls),
            "density": density,  # the mean over the radial calls
            "backend": self.backend,
            "text": text,
            "dense_backends": dict(self.dense_backends),
            "settings": self.settings,  # of the last pass
        }

    def report(self):
        """Log the summary of a run and send it to the page or script that queued it; start anew.

        Never raises: it runs when the video is done, and the video must not be lost for it.
        """
        try:
            if self.model_calls:
                summary = self.summary()
                reached = summary["radial_calls"] or summary["dense_calls"]
                level = logging.INFO if reached else logging.WARNING
                log.log(level, "Radial attention: %s", summary["text"])
                _send(EVENT, summary)
        except Exception:
            log.exception("Radial attention: no summary of this run")
        finally:
            self.clear()


def _send(event: str, data: dict):
    module = sys.modules.get("server")  # ComfyUI's; not there when it is used as a library
    server = getattr(getattr(module, "PromptServer", None), "instance", None)
    if server is not None:
        server.send_sync(event, data, server.client_id)
