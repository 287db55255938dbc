"""Tells the log and the page what ran radial in a sampler run, what ran dense, and why."""

import logging
from collections import deque
from collections.abc import Callable

from ..comfyui.page import send as _send
from . import summary_text
from .record import CallEntry, Record

EVENT = "radial_attention.summary"
KEPT_RUNS = 4

log = logging.getLogger("radial_attention")


class RunReporter:
    """Keeps the records of the current run and of the last ones; logs each message once.

    node: the id in the graph of the node whose runs these are.
    """

    def __init__(self, node: str | None = None):
        self.node = node
        self.record = Record()
        self.runs = deque(maxlen=KEPT_RUNS)  # the newest is the last
        self._said = set()

    def end_forward(self, entry: CallEntry):
        self._ended(entry, self.record.end_forward)

    def end_call(self, entry: CallEntry):
        self._ended(entry, self.record.end_call)

    def pass_by(self, owner: str | None):
        """Note whose sparse attention is on the hook, and not used in calls that we want full."""
        if owner is not None:
            self.record.passed_by[owner] = None
            message = "%s, another sparse attention, is on the hook: not used in dense steps"
            self.say_once(f"sparse {owner}", logging.INFO, f"Radial attention: {message}", owner)

    def _ended(self, entry: CallEntry, write: Callable[[CallEntry], None]):
        try:
            if (why := entry.dense) is not None:
                self.say_once(why, logging.INFO, "Radial attention: dense here: %s", why)
            write(entry)
        except Exception as error:  # the render goes on
            message = "Radial attention: the record of this run has gaps. %s"
            self.say_once("record", logging.WARNING, message, error, exc_info=True)

    def say_once(self, key: str, level: int, message: str, *arguments, **options):
        if key not in self._said:
            self._said.add(key)
            log.log(level, message, *arguments, **options)

    def summary(self) -> dict:
        """The counts as plain values, with a line for people under "text"."""
        # What was found is on the GPU. The run is over: nothing is held up by waiting for it.
        run = self.record.read(wait=self.record.has_looked)
        totals = run["totals"]
        return {
            "steps": totals["steps"],
            "skipped_steps": len(totals["skipped_steps"]),
            "model_calls": totals["model_calls"],
            "radial_calls": totals["radial_calls"],
            "dense_calls": totals["dense_calls"] | totals["other_calls"],
            "density": run["density"],  # the mean over the radial calls
            "backend": run["backend"],
            "text": summary_text.summary(run),
            "dense_backends": run["dense_backends"],
            "precisions": run["precisions"],
            "dense_precisions": run["dense_precisions"],
            "adaptive": run["adaptive"],
            "gpus": totals["gpus"],  # None without Radial Multi-GPU
            "settings": run["settings"],  # of the last pass
            "node": self.node,
            "status": summary_text.status(run),
        }

    def report(self):
        """Log the summary of a run, send it to the page or script that queued it, and start anew.

        Never raises: the video is done by then, and must not be lost.
        """
        record, reached = self.record, False
        try:
            if record.model_calls or record.failures:
                self.runs.append(record)
                summary = self.summary()
                reached = summary["radial_calls"] or summary["dense_calls"]
                level = logging.INFO if reached else logging.WARNING
                log.log(level, "Radial attention: %s", summary["text"])
                _send(EVENT, summary)
        except Exception:
            log.exception("Radial attention: no summary of this run")
        finally:
            self.record = Record()
