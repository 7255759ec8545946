"""Background jobs, and backups."""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from prometheus_client import Counter, Gauge
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from vsyncd.observability.metrics import REGISTRY

_RUNS: Final = Counter("vsyncd_job_runs", "Runs of a job, by result.", ["job_name", "result"], registry=REGISTRY)
_RUN_SECONDS: Final = Gauge(
    "vsyncd_job_last_seconds", "Duration of a job's last run in this process.", ["job_name"], registry=REGISTRY
)
_INTERVAL: Final = Gauge(
    "vsyncd_job_interval_seconds", "Time between two runs of a job.", ["job_name"], registry=REGISTRY
)
_SUCCESS: Final = Gauge(
    "vsyncd_job_last_success_timestamp_seconds",
    "Time of a job's last success; for an exclusive job in any instance.",
    ["job_name"],
    registry=REGISTRY,
)
_STEPS: Final = Counter(
    "vsyncd_backup_steps", "Backup steps of this process, by result.", ["step", "result"], registry=REGISTRY
)
_STEP_SECONDS: Final = Gauge(
    "vsyncd_backup_step_seconds", "Duration of the last backup step in this process.", ["step"], registry=REGISTRY
)
_SUCCEEDED, _FAILED, _STOPPED = "succeeded", "failed", "stopped"


@dataclass(slots=True, kw_only=True)
class JobState:
    """A job of this process. Times are Unix times. `error` is the reason if the last run has failed."""

    interval: float
    exclusive: bool
    running: bool = False
    last_started: float | None = None
    last_succeeded: float | None = None
    error: str = ""


class JobRunMetrics:
    error = ""


class Jobs:
    """The jobs of this process by name."""

    def __init__(self) -> None:
        self.states: dict[str, JobState] = {}

    def add(self, name: str, *, interval: float, exclusive: bool = False) -> None:
        """Reports a job from now on. Its last success is now until it has one, for alerts on the age."""
        self.states[name] = JobState(interval=interval, exclusive=exclusive)
        _INTERVAL.labels(name).set(interval)
        _SUCCESS.labels(name).set(time.time())
        for result in (_SUCCEEDED, _FAILED, _STOPPED):
            _RUNS.labels(name, result)

    def remove(self, name: str) -> None:
        """Stops reporting the interval and the last success; counters remain."""
        self.states.pop(name, None)
        for gauge in (_INTERVAL, _SUCCESS):
            with suppress(KeyError):
                gauge.remove(name)

    def succeeded(self, name: str, *, at: float) -> None:
        """Sets the Unix time of the last success, of this process or another one."""
        _SUCCESS.labels(name).set(at)
        if (state := self.states.get(name)) is not None:
            state.last_succeeded = at

    @contextmanager
    def timed(self, name: str) -> Iterator[JobRunMetrics]:
        """Measures the job that the block of a `with` runs. A failed block sets `error`; an exception means stopped."""
        run, result, began = JobRunMetrics(), _STOPPED, time.perf_counter()
        state = self.states.get(name) or JobState(interval=0, exclusive=False)
        state.running, state.last_started = True, time.time()
        try:
            yield run
            result = _FAILED if run.error else _SUCCEEDED
        finally:
            state.running, state.error = False, run.error
            _RUNS.labels(name, result).inc()
            _RUN_SECONDS.labels(name).set(time.perf_counter() - began)
            if result == _SUCCEEDED:
                self.succeeded(name, at=time.time())


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupSummary:
    """The stored backups of a database: creation time and size of the newest good one, creation time of the newest
    verified one, the number in each state, and when the next one is due."""

    last: datetime | None = None
    last_size: int = 0
    last_verified: datetime | None = None
    states: Mapping[str, int]
    due: datetime


class BackupCollector(Collector):
    """The stored backups of this process' database."""

    def __init__(self) -> None:
        self._summary: BackupSummary | None = None

    @property
    def summary(self) -> BackupSummary | None:
        """The summary that is reported."""
        return self._summary

    def set(self, summary: BackupSummary | None) -> None:
        """Reports this summary from now on; None: reports nothing."""
        self._summary = summary

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Measures and counts the step that the block of a `with` runs."""
        result, began = _FAILED, time.perf_counter()
        try:
            yield
            result = _SUCCEEDED
        finally:
            _STEPS.labels(step, result).inc()
            _STEP_SECONDS.labels(step).set(time.perf_counter() - began)

    def collect(self) -> Iterable[Metric]:
        last = GaugeMetricFamily(
            "vsyncd_backup_last_timestamp_seconds", "Creation time of the newest good backup; 0: none."
        )
        verified = GaugeMetricFamily(
            "vsyncd_backup_last_verified_timestamp_seconds",
            "Creation time of the newest successfully verified backup; 0: none.",
        )
        due = GaugeMetricFamily("vsyncd_backup_due_timestamp_seconds", "Time at which the next backup is due.")
        size = GaugeMetricFamily("vsyncd_backup_last_bytes", "Size of the newest good backup.")
        stored = GaugeMetricFamily("vsyncd_backup_stored", "Stored backups, by state.", labels=["state"])
        if (summary := self._summary) is not None:
            last.add_metric([], summary.last.timestamp() if summary.last else 0)
            verified.add_metric([], summary.last_verified.timestamp() if summary.last_verified else 0)
            due.add_metric([], summary.due.timestamp())
            size.add_metric([], summary.last_size)
            for state, count in summary.states.items():
                stored.add_metric([state], count)
        return last, verified, due, size, stored


JOBS: Final = Jobs()
BACKUPS: Final = BackupCollector()
REGISTRY.register(BACKUPS)
