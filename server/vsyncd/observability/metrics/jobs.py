"""Background jobs: how they end, how long they take, and when one last succeeded."""

import time
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from prometheus_client import Counter, Gauge

from vsyncd.observability.metrics.registry import REGISTRY

_RUNS: Final = Counter(
    "vsyncd_job_runs", "Runs of a job, by what they came to.", ["job_name", "result"], registry=REGISTRY
)
_SECONDS: Final = Gauge(
    "vsyncd_job_last_seconds", "Duration of a job's last run here.", ["job_name"], registry=REGISTRY
)
_INTERVAL: Final = Gauge(
    "vsyncd_job_interval_seconds", "Time between two runs of a job.", ["job_name"], registry=REGISTRY
)
_SUCCESS: Final = Gauge(
    "vsyncd_job_last_success_timestamp_seconds",
    "When a job last succeeded; of an exclusive job: in any instance.",
    ["job_name"],
    registry=REGISTRY,
)
_SUCCEEDED, _FAILED, _STOPPED = "succeeded", "failed", "stopped"


class Jobs:
    """The jobs of this process, by name."""

    def add(self, name: str, *, interval: float) -> None:
        """Tell of a job from now on. One that has not succeeded yet counts from now, for alerts on its age."""
        _INTERVAL.labels(name).set(interval)
        _SUCCESS.labels(name).set(time.time())
        for result in (_SUCCEEDED, _FAILED, _STOPPED):
            _RUNS.labels(name, result)

    def remove(self, name: str) -> None:
        """Tell of its age no more; what was counted stays."""
        for gauge in (_INTERVAL, _SUCCESS):
            with suppress(KeyError):
                gauge.remove(name)

    def succeeded(self, name: str, *, at: float) -> None:
        """It did, at that Unix time, here or elsewhere."""
        _SUCCESS.labels(name).set(at)

    def timed(self, name: str) -> "JobTiming":
        """Measures the block of a `with`, which runs the job; the block sets `failed` of what it is given."""
        return JobTiming(self, name)

    def ended(self, name: str, seconds: float, result: str) -> None:
        """A run has ended."""
        _RUNS.labels(name, result).inc()
        _SECONDS.labels(name).set(seconds)
        if result == _SUCCEEDED:
            self.succeeded(name, at=time.time())


class JobTiming:
    """A run under way."""

    def __init__(self, jobs: Jobs, name: str) -> None:
        self.failed = False
        self._jobs = jobs
        self._name = name

    def __enter__(self) -> Self:
        self._began = time.perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        result = _STOPPED if kind else _FAILED if self.failed else _SUCCEEDED
        self._jobs.ended(self._name, time.perf_counter() - self._began, result)


JOBS: Final = Jobs()
