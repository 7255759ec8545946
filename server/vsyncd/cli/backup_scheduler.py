"""`vsyncd backup schedule`: the backup scheduler in its own process."""

from contextlib import AsyncExitStack
from datetime import datetime
from typing import Final

import uvloop

from vsyncd.config import Settings
from vsyncd.core.errors import ServiceError
from vsyncd.jobs.ledger import JobLedger
from vsyncd.jobs.runner import Job, JobFailed, JobRunner
from vsyncd.jobs.scheduled_backups import BackupJobs
from vsyncd.observability import logs
from vsyncd.postgres.database import Database
from vsyncd.signals import StopSignals

# A stop ends pg_dump and removes its incomplete files.
_STOP_TIMEOUT_S: Final = 60.0
DONE, FAILED = 0, 1

_log = logs.logger(__name__)


def run_scheduler(settings: Settings, *, once: bool) -> int:
    """Creates each backup when it is due, until SIGTERM or SIGINT; returns the exit code.

    `once`: creates only the backup that is due now.
    """
    logs.configure(level=settings.log_level, form=settings.log_format)
    # No idle connections: the job ledger is read rarely.
    return uvloop.run(_run(settings.model_copy(update={"db_min_connections": 0}), once=once))


async def _run(settings: Settings, *, once: bool) -> int:
    signals = StopSignals(timeout=_STOP_TIMEOUT_S)
    async with AsyncExitStack() as stack:
        database = Database(settings)
        await database.open()
        stack.push_async_callback(database.close)
        ledger = JobLedger(database)
        job = BackupJobs(settings, ledger).backup_job
        runner = JobRunner([job], ledger)
        if once:
            code = FAILED

            async def make() -> None:
                nonlocal code
                code = await _once(runner, ledger, job)

            await signals.run_until_stopped(make())
            return code
        runner.start()
        stack.push_async_callback(runner.stop)
        _log.info("backup scheduler started", schedule=settings.backup_schedule)
        await signals.wait()
    return DONE


async def _once(runner: JobRunner, ledger: JobLedger, job: Job) -> int:
    try:
        seen = await ledger.find(job.name)
        due = job.due_at(seen)
        if due > seen.now:
            _log.info("no backup is due", due=_text(due))
        elif not await runner.run_now(job):
            _log.info("another process is making the backup")
    except (ServiceError, JobFailed) as failure:
        _log.error("backup failed", reason=failure.reason if isinstance(failure, ServiceError) else str(failure))
        return FAILED
    return DONE


def _text(at: datetime) -> str:
    return at.isoformat(timespec="seconds").replace("+00:00", "Z")
