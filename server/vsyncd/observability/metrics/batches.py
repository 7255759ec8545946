"""Calls that were gathered into one statement, by what they do."""

from collections.abc import Iterable
from typing import Final

from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from vsyncd.observability.metrics.histogram import Histogram
from vsyncd.observability.metrics.registry import REGISTRY

_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128)


class BatchCollector(Collector):
    """The sizes of batches."""

    def __init__(self) -> None:
        self._sizes: dict[str, Histogram] = {}

    def sizes(self, name: str) -> Histogram:
        """The sizes of the batches of this name."""
        return self._sizes.setdefault(name, Histogram(_SIZES))

    def collect(self) -> Iterable[Metric]:
        """See prometheus_client."""
        family = HistogramMetricFamily("vsyncd_batch_calls", "Calls gathered into one statement.", labels=["batch"])
        for name, sizes in list(self._sizes.items()):
            family.add_metric([name], sizes.buckets(), sizes.total)
        return (family,)


BATCHES: Final = BatchCollector()
REGISTRY.register(BATCHES)
