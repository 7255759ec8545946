"""Work that comes round by itself, until the service stops.

A plain job runs in every instance. An exclusive one runs in one of all the instances over a database at a time: its
runs are kept in the table job_runs, so that a run that was missed (nothing was running then) is caught up, and one
whose instance was killed is begun again by another as soon as its lease has run out.

    Job(name="backup", interval=86_400, work=back_up, exclusive=True, retry=600)

`work` raises ServiceError or JobFailed for what can go wrong; that is logged, counted (vsyncd_job_*) and, of an
exclusive job, kept. It must tolerate being cancelled at any await: when the service stops, and when the lease is lost
because the database cannot be reached; another instance may begin then.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from vsyncd.core.errors import ServiceError
from vsyncd.jobs.ledger import JobLease, JobLedger, JobRun
from vsyncd.observability.logs import logger
from vsyncd.observability.metrics import JOBS

# Seconds. An exclusive job is looked at this often at least, since another instance may have been killed.
_POLL: Final = 15.0
# Between two attempts to write what a run came to, or to renew its lease, when the database did not answer.
_AGAIN: Final = 1.0
# What the circuit breaker has said already.
_BREAKER: Final = "CIRCUIT_OPEN"
# What giving up a run may take, at shutdown.
_RELEASE: Final = 2.0

_log = logger(__name__)


class JobFailed(Exception):  # noqa: N818  named for what happened
    """A run that came to nothing. Its text goes into the log and the database: no secrets, no personal values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to do every `interval` seconds, the first time at once.

    `exclusive`: in one instance at a time. Then also: `due` says from when on to run again after the run that began
    then (by the database's clock, UTC; None: it never ran) in place of the interval, for a schedule; `retry` is in how
    many seconds to try again after a failed run, where that is sooner, and `again` what is done then in place
    of `work`.
    """

    name: str
    interval: float
    work: Callable[[], Awaitable[object]]
    exclusive: bool = False
    due: Callable[[datetime | None], datetime] | None = None
    retry: float | None = None
    again: Callable[[], Awaitable[object]] | None = None

    def work_after(self, run: JobRun) -> Callable[[], Awaitable[object]]:
        """What the next run of an exclusive job does, by what is known of the last one."""
        return self.work if self.again is None or run.last_error is None else self.again

    def due_at(self, run: JobRun) -> datetime:
        """When the next run of an exclusive job may begin, by what is known of the last one."""
        if run.was_cut_off or run.is_ahead:
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
    """Runs jobs in the background. A run that fails is logged; the next one comes at its time.

    `ledger` is needed for exclusive jobs. `poll`: seconds after which such a job is looked at again at the latest.
    """

    def __init__(self, jobs: Sequence[Job], ledger: JobLedger | None = None, *, poll: float = _POLL) -> None:
        self._jobs = jobs
        self._ledger = ledger
        self._poll = poll
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin."""
        for job in self._jobs:
            JOBS.add(job.name, interval=job.interval)
        self._tasks = [
            asyncio.create_task(self._repeat_exclusively(job) if job.exclusive else self._repeat(job), name=job.name)
            for job in self._jobs
        ]

    async def stop(self) -> None:
        """Cancel what runs, and wait until it has ended."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for job in self._jobs:
            JOBS.remove(job.name)

    async def run_now(self, job: Job) -> bool:
        """Run an exclusive job once, due or not. False: another instance is running it.

        Raises ServiceError and JobFailed, also those of the work.
        """
        ledger = self._needed()
        seen = await ledger.look(job.name)
        claim = None if seen.is_running else await ledger.claim(job.name, seen)
        if claim is None:
            return False
        await _Run(ledger, job, claim).execute(job.work_after(seen))
        return True

    async def _repeat(self, job: Job) -> None:
        told = ""
        while True:
            told = await _noted(job, job.work(), told)
            await asyncio.sleep(job.interval)

    async def _repeat_exclusively(self, job: Job) -> None:
        told = ""
        while True:
            try:
                pause = await self._take_turn(job)
                told = ""
            except ServiceError as failure:
                if failure.reason != told:  # an outage is long, and looks are many
                    _log.warning("job cannot be claimed", job=job.name, reason=failure.reason)
                told, pause = failure.reason, self._poll
            await asyncio.sleep(pause)

    async def _take_turn(self, job: Job) -> float:
        """Run it if it is due and nobody else does; in how many seconds to look again."""
        ledger = self._needed()
        seen = await ledger.look(job.name)
        if seen.last_succeeded is not None:
            JOBS.succeeded(job.name, at=seen.last_succeeded.timestamp())
        begins = seen.lease_until if seen.is_running and seen.lease_until else job.due_at(seen)
        if begins > seen.now:
            return min(self._poll, (begins - seen.now).total_seconds())
        claim = await ledger.claim(job.name, seen)
        if claim is not None:
            await _noted(job, _Run(ledger, job, claim).execute(job.work_after(seen)))
        return 0.0

    def _needed(self) -> JobLedger:
        if self._ledger is None:
            raise AssertionError("an exclusive job needs a ledger")
        return self._ledger


class _Run:
    """One run of an exclusive job, for as long as its lease is kept."""

    def __init__(self, ledger: JobLedger, job: Job, claim: JobLease) -> None:
        self._ledger = ledger
        self._job = job
        self._claim = claim

    async def execute(self, do: Callable[[], Awaitable[object]]) -> None:
        """Do the work, and note what it came to. Raises what the work raises, and JobFailed when the lease was lost."""
        work = asyncio.ensure_future(do())
        keeping = asyncio.create_task(self._keep())
        try:
            await asyncio.wait({work, keeping}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                raise JobFailed("the lease was lost: the database did not answer in time")
            await self._note(work, keeping)
        except asyncio.CancelledError:
            await _ended(work)
            with suppress(ServiceError, TimeoutError):  # then the lease runs out
                async with asyncio.timeout(_RELEASE):
                    await self._ledger.release(self._claim)
            raise
        finally:
            await _ended(work)
            await _ended(keeping)
        work.result()

    async def _keep(self) -> None:
        """Renew the lease; ends when it is lost, by the clock of this process, which began to count before it did."""
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
                pause = min(_AGAIN, lease / 10)
            else:
                until, pause = asked + lease * 0.9, lease / 3

    async def _note(self, work: "asyncio.Future[object]", keeping: "asyncio.Task[None]") -> None:
        """As long as the lease holds: a run that is not noted will be begun again."""
        error = work.exception()
        while not keeping.done():
            try:
                await self._ledger.finish(self._claim, error=_text_of(error))
            except ServiceError as failure:
                _log.warning("job's result cannot be kept now", job=self._job.name, reason=failure.reason)
                await asyncio.sleep(_AGAIN)
            else:
                return


async def _noted(job: Job, run: Awaitable[object], told: str = "") -> str:
    """The run, with what it came to in the log and the metrics; why it failed, or nothing.

    `told`: why the last one did. An outage is long, and some jobs run each second.
    """
    with JOBS.timed(job.name) as timing:
        try:
            await run
        except (ServiceError, JobFailed) as failure:
            timing.failed = True
            reason = _text_of(failure) or ""
            if reason not in {told, _BREAKER}:
                _log.warning("job failed", job=job.name, reason=reason)
            return reason
        except Exception:  # noqa: BLE001  a defect in one run must not end the job for good
            timing.failed = True
            _log.error("job is defective", job=job.name, exc_info=True)
    return ""


def _text_of(error: BaseException | None) -> str | None:
    if error is None:
        return None
    if isinstance(error, ServiceError):
        return error.reason
    return str(error) if isinstance(error, JobFailed) else type(error).__qualname__


async def _ended(task: "asyncio.Future[object] | asyncio.Task[None]") -> None:
    if not task.done():
        task.cancel()
        await asyncio.wait({task})
