"""Runs periodic jobs until the service stops.

A plain job runs in every instance. An exclusive job runs in one instance at a time per database. Its runs are recorded
in the table job_runs, so a missed run is made up for, and another instance repeats the run of a killed instance after
its lease has expired.

    Job(name="backup", interval=86_400, work=back_up, exclusive=True, retry=600)

`work` raises ServiceError or JobFailed for an expected failure, which is logged, counted (vsyncd_job_*) and, for an
exclusive job, recorded. It can be cancelled at any await: when the service stops, or when the lease is lost because the
database cannot be reached. Another instance may then begin.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from vsyncd.core.errors import ServiceError
from vsyncd.jobs.ledger import JobLease, JobLedger, JobRun
from vsyncd.observability.job_metrics import JOBS
from vsyncd.observability.logs import logger

# The maximum interval at which the run of an exclusive job is read, since another instance may have been killed.
_POLL_INTERVAL_S: Final = 15.0
# The interval between attempts to record a result or to renew a lease while the database does not answer.
_RETRY_INTERVAL_S: Final = 1.0
# Not logged again, because the circuit breaker has logged it.
_CIRCUIT_OPEN: Final = "CIRCUIT_OPEN"
# The timeout for releasing a lease at shutdown.
_RELEASE_TIMEOUT_S: Final = 2.0

_log = logger(__name__)


class JobFailed(Exception):  # noqa: N818  the name of an outcome
    """A failed run. Its text is logged and stored, so it must not contain secrets or personal values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Work that runs every `interval` seconds, and at once after the start.

    `exclusive`: it runs in one instance at a time. The other fields apply to exclusive jobs only. `due` replaces the
    interval by a schedule: it returns the time of the next run for the start of the last one (UTC, by the database's
    clock; None: it never ran). `retry` is the number of seconds after which a failed run is repeated, if that is
    earlier, and `retry_work` replaces `work` in that run.
    """

    name: str
    interval: float
    work: Callable[[], Awaitable[object]]
    exclusive: bool = False
    due: Callable[[datetime | None], datetime] | None = None
    retry: float | None = None
    retry_work: Callable[[], Awaitable[object]] | None = None

    def work_after(self, run: JobRun) -> Callable[[], Awaitable[object]]:
        """Returns the work of the next run of an exclusive job, given the last one."""
        return self.work if self.retry_work is None or run.last_error is None else self.retry_work

    def due_at(self, run: JobRun) -> datetime:
        """Returns the time of the next run of an exclusive job, given the last one."""
        if run.was_interrupted or run.is_ahead:
            return run.now
        if self.due is not None:
            due = self.due(run.last_started)
        elif run.last_started is None:
            return run.now
        else:
            due = run.last_started + timedelta(seconds=self.interval)
        if run.last_error is not None and run.last_finished is not None and self.retry is not None:
            return min(due, run.last_finished + timedelta(seconds=self.retry))
        return due


class JobRunner:
    """Runs jobs in the background. A failed run is logged and does not affect the next one.

    The `ledger` has the runs of exclusive jobs. `poll` is the maximum interval in seconds at which their runs are read.
    """

    def __init__(self, jobs: Sequence[Job], ledger: JobLedger, *, poll: float = _POLL_INTERVAL_S) -> None:
        self._jobs = jobs
        self._ledger = ledger
        self._poll = poll
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        for job in self._jobs:
            JOBS.add(job.name, interval=job.interval, exclusive=job.exclusive)
        self._tasks = [
            asyncio.create_task(self._repeat_exclusively(job) if job.exclusive else self._repeat(job), name=job.name)
            for job in self._jobs
        ]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for job in self._jobs:
            JOBS.remove(job.name)

    async def run_now(self, job: Job) -> bool:
        """Runs an exclusive job once, whether it is due or not. Returns False if another instance is running it.

        Raises ServiceError and JobFailed, also from the work.
        """
        last_run = await self._ledger.find(job.name)
        claim = None if last_run.is_running else await self._ledger.claim(job.name, last_run)
        if claim is None:
            return False
        await _Run(self._ledger, job, claim).execute(job.work_after(last_run))
        return True

    async def _repeat(self, job: Job) -> None:
        reason = ""
        while True:
            reason = await _run_logged(job, job.work(), logged=reason)
            await asyncio.sleep(job.interval)

    async def _repeat_exclusively(self, job: Job) -> None:
        logged = ""
        while True:
            try:
                pause = await self._run_if_due(job)
                logged = ""
            except ServiceError as failure:
                if failure.reason != logged:  # logs an outage once
                    _log.warning("job cannot be claimed", job=job.name, reason=failure.reason)
                logged, pause = failure.reason, self._poll
            await asyncio.sleep(pause)

    async def _run_if_due(self, job: Job) -> float:
        """Runs the job if it is due and no other instance runs it. Returns the seconds until the next attempt."""
        last_run = await self._ledger.find(job.name)
        if last_run.last_succeeded is not None:
            JOBS.succeeded(job.name, at=last_run.last_succeeded.timestamp())
        begins = last_run.lease_until if last_run.is_running and last_run.lease_until else job.due_at(last_run)
        if begins > last_run.now:
            return min(self._poll, (begins - last_run.now).total_seconds())
        claim = await self._ledger.claim(job.name, last_run)
        if claim is not None:
            await _run_logged(job, _Run(self._ledger, job, claim).execute(job.work_after(last_run)))
        return 0.0


class _Run:
    """One run of an exclusive job, while its lease holds."""

    def __init__(self, ledger: JobLedger, job: Job, claim: JobLease) -> None:
        self._ledger = ledger
        self._job = job
        self._claim = claim

    async def execute(self, function: Callable[[], Awaitable[object]]) -> None:
        """Does the work and records the result. Raises what the work raises, and JobFailed if the lease was lost."""
        work = asyncio.ensure_future(function())
        renewal = asyncio.create_task(self._renew())
        try:
            await asyncio.wait({work, renewal}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise JobFailed("the lease was lost: the database did not answer in time")
            await self._record(work, renewal)
        except asyncio.CancelledError:
            await _cancel(work)
            with suppress(ServiceError, TimeoutError):  # otherwise the lease expires
                async with asyncio.timeout(_RELEASE_TIMEOUT_S):
                    await self._ledger.release(self._claim)
            raise
        finally:
            await _cancel(work)
            await _cancel(renewal)
        work.result()

    async def _renew(self) -> None:
        """Renews the lease. Returns when it is lost: by this process's clock, before it expires in the database."""
        clock, lease = asyncio.get_running_loop().time, self._ledger.lease
        until, pause = clock() + lease * 0.9, lease / 3
        while True:
            await asyncio.sleep(pause)
            asked = clock()
            try:
                async with asyncio.timeout_at(until):
                    if not await self._ledger.renew(self._claim):
                        return
            except TimeoutError:
                return
            except ServiceError:
                pause = min(_RETRY_INTERVAL_S, lease / 10)
            else:
                until, pause = asked + lease * 0.9, lease / 3

    async def _record(self, work: "asyncio.Future[object]", renewal: "asyncio.Task[None]") -> None:
        """Records the result, and tries again while the lease holds. A run without a result would be repeated."""
        error = work.exception()
        while not renewal.done():
            try:
                await self._ledger.finish(self._claim, error=_text_of(error))
            except ServiceError as failure:
                _log.warning("job result cannot be recorded yet", job=self._job.name, reason=failure.reason)
                await asyncio.sleep(_RETRY_INTERVAL_S)
            else:
                return


async def _run_logged(job: Job, run: Awaitable[object], *, logged: str = "") -> str:
    """Awaits a run; logs and counts its result. Returns the reason of a failure, or an empty text.

    `logged` is the reason of the previous run, which is not logged again, since some jobs run each second.
    """
    with JOBS.timed(job.name) as timing:
        try:
            await run
        except (ServiceError, JobFailed) as failure:
            timing.error = reason = _text_of(failure) or ""
            if reason not in {logged, _CIRCUIT_OPEN}:
                _log.warning("job failed", job=job.name, reason=reason)
            return reason
        except Exception as error:  # noqa: BLE001  a defect of one run must not end the job for good
            timing.error = type(error).__qualname__
            _log.error("job raised an unexpected error", job=job.name, exc_info=True)
    return ""


def _text_of(error: BaseException | None) -> str | None:
    if error is None:
        return None
    if isinstance(error, ServiceError):
        return error.reason
    return str(error) if isinstance(error, JobFailed) else type(error).__qualname__


async def _cancel(task: "asyncio.Future[object] | asyncio.Task[None]") -> None:
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
