"""Records, batches and verdicts of all participants. Jobs measure them, so a scrape queries nothing."""

import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from vsyncd.observability.metrics import REGISTRY

# The interval of the jobs that measure.
MEASURE_INTERVAL_S: Final = 60.0


class MeasuredGauge(Collector):
    """A gauge whose samples are replaced together, by the value of one label ("" without a label).

    The samples expire, because a value that can no longer be measured would be wrong.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        label: str = "",
        *,
        registry: CollectorRegistry = REGISTRY,
        max_age_s: float = 3 * MEASURE_INTERVAL_S,
    ) -> None:
        self._family = name, documentation, None, [label] if label else []
        self._max_age_s = max_age_s
        self._samples: Mapping[str, float] = {}
        self._expires = 0.0
        registry.register(self)

    def replace(self, samples: Mapping[str, float]) -> None:
        """Reports these values from now on."""
        self._samples, self._expires = samples, time.monotonic() + self._max_age_s

    def replace_time(self, at: datetime | None) -> None:
        """Reports this time from now on; None: no sample."""
        self.replace({} if at is None else {"": at.timestamp()})

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(*self._family)
        for label, value in self._samples.items() if time.monotonic() < self._expires else ():
            family.add_metric([label] if label else [], value)
        yield family


RECORDS: Final = MeasuredGauge("vsyncd_records", "CIDs of all participants, by status.", "status")
BATCHES: Final = MeasuredGauge("vsyncd_batches", "Open batches, by status.", "status")
BATCH_RECORDS: Final = MeasuredGauge("vsyncd_batch_records", "Records of open batches, by result.", "result")
BATCH_PROGRESS: Final = MeasuredGauge(
    "vsyncd_batch_last_progress_timestamp_seconds", "Last progress of the started batch that progressed least recently."
)
BATCH_LEASE: Final = MeasuredGauge(
    "vsyncd_batch_oldest_lease_expiry_timestamp_seconds", "End of the oldest lease in an open batch."
)
VERDICTS: Final = MeasuredGauge(
    "vsyncd_verdicts", "Participants' key types, by the result of their last verification.", "result"
)
NOK_SINCE: Final = MeasuredGauge(
    "vsyncd_nok_since_timestamp_seconds", "Time since which a participant's key type is NOK; of several the first."
)
DIFF_CIDS: Final = Gauge(
    "vsyncd_diff_cids", "CIDs that differed in this process's last comparison, by kind.", ["kind"], registry=REGISTRY
)
