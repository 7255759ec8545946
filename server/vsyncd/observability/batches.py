"""Metrics and spans of calls that are gathered into one statement."""

from collections.abc import Sequence
from contextlib import AbstractContextManager

from vsyncd.observability.metrics import BATCHES
from vsyncd.observability.tracing import TRACES


class BatchInstruments:
    """What one coalescer reports (resilience.coalescer.BatchInstruments). `name` is the metric's label `batch`."""

    def __init__(self, name: str) -> None:
        self._name = f"batch {name}"
        self.observe = BATCHES.sizes(name).observe
        self.here = TRACES.here

    def batch(self, members: Sequence[object]) -> AbstractContextManager[None]:
        """A span around one flush, linked to the members' spans."""
        return TRACES.batch(self._name, members)
