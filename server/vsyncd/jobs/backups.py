"""Backups of the configured database, by hand or scheduled.

One instance makes the scheduled backups, and every instance reports their state.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, TypeVar, get_args

from vsyncd import __version__
from vsyncd.backup.errors import BackupError
from vsyncd.backup.manager import Backups
from vsyncd.backup.records import Backup, BackupConfig, Retention, Skipped, State, latest_of
from vsyncd.backup.store import BackupStore, FolderStore
from vsyncd.backup.tasks import Task
from vsyncd.config import ConfigError, Settings
from vsyncd.config.connections import backup_conninfo, backup_database
from vsyncd.config.schedules import next_due, parse_schedule
from vsyncd.core.errors import ServiceError
from vsyncd.jobs.ledger import JobLedger, JobRun
from vsyncd.jobs.migrations import migration_root
from vsyncd.jobs.runner import Job, JobFailed
from vsyncd.migrate import latest_versions
from vsyncd.observability.job_metrics import BACKUPS, BackupSummary
from vsyncd.observability.logs import logger

T = TypeVar("T")

JOB: Final = "backup"
# The time after which a failed run is repeated, unless the schedule is earlier.
_RETRY_S: Final = 600.0
# The interval at which the stored backups are read.
_STATUS_INTERVAL_S: Final = 60.0

_log = logger(__name__)


def backups_of(settings: Settings) -> Backups:
    """Returns the backups of the configured database. Raises ConfigError if BACKUP_DIR is not set."""
    if settings.backup_dir is None:
        raise ConfigError("BACKUP_DIR: takes the path of a folder, and is needed for backups")
    config = BackupConfig(
        conninfo=partial(backup_conninfo, settings),
        database=backup_database(settings),
        schema=settings.db_schema,
        store=_store(settings, Path(settings.backup_dir)),
        retention=Retention(days=settings.retention_days, count=settings.backup_retention_count),
        known_migrations=latest_versions(migration_root(settings)),
        vsyncd_version=__version__,
        dump_format=settings.backup_format,
        compression=settings.backup_compression,
        jobs=settings.parallel_jobs,
        pg_bin=Path(settings.backup_pg_bin) if settings.backup_pg_bin else None,
    )
    return Backups(config)


class BackupJobs:
    """The jobs of a service with BACKUP_SCHEDULE. The ledger has the result of their last run."""

    def __init__(self, settings: Settings, ledger: JobLedger) -> None:
        """Raises ConfigError if BACKUP_DIR is not set."""
        if settings.backup_schedule is None:
            raise AssertionError("there is no schedule")
        self._backups = backups_of(settings)
        self._schedule = parse_schedule(settings.backup_schedule)
        self._restore = settings.backup_check == "restore"
        self._began = datetime.now(UTC)
        self._ledger = ledger
        self._seen: BackupSummary | None = None
        self._newest: Backup | None = None
        self._failed_at: datetime | None = None
        self._logged = ""
        self._skipped: Sequence[Skipped] = ()

    @property
    def backup_job(self) -> Job:
        """The exclusive job that makes and verifies a backup when one is due, and removes expired ones."""
        first = self._schedule(self._began)
        return Job(
            name=JOB,
            interval=(self._schedule(first) - first).total_seconds(),
            due=partial(next_due, self._schedule),
            work=partial(self._run_steps, self._make_backup, self._clean_up),
            exclusive=True,
            retry=_RETRY_S,
            retry_work=partial(self._run_steps, self._complete_backup, self._clean_up),
        )

    @property
    def status_job(self) -> Job:
        """The job of every instance that reads the stored backups for metrics and health."""
        return Job(name="backup status", interval=_STATUS_INTERVAL_S, work=self._read_status)

    def metadata(self) -> Mapping[str, str]:
        """Returns the state of the backups for the health report."""
        if (seen := self._seen) is None:
            return {"backup": "not looked at yet"}
        if seen.last is None or seen.due < datetime.now(UTC):
            state = "none" if seen.last is None else "overdue"
        else:
            state = "on time" if self._failed_at is None else "failing"
        times = {
            "last_backup_at": seen.last,
            "last_verified_backup_at": seen.last_verified,
            "last_backup_failed_at": self._failed_at,
        }
        known = {name: _text_of(at) for name, at in times.items() if at is not None}
        newest = {"last_backup_state": str(self._newest.state)} if self._newest is not None else {}
        skipped = {"last_backups_skipped": str(len(self._skipped))} if self._skipped else {}
        return {"backup": state, **known, **newest, **skipped}

    async def _run_steps(self, *steps: Callable[[], Awaitable[None]]) -> None:
        """Runs every step, even if an earlier one fails: expired backups are removed in any case. Raises JobFailed."""
        failures = []
        for step in steps:
            try:
                await step()
            except BackupError as error:
                failures.append(error)
        await self._read_status()
        if failures:
            raise JobFailed("; ".join(dict.fromkeys(map(str, failures)))) from failures[0]

    async def _make_backup(self) -> None:
        with BACKUPS.timed("create"):
            made = await _in_thread(self._backups.create)
        _log.info("backup made", backup=made.name, size=made.size)
        await self._verify(made.name)

    async def _complete_backup(self) -> None:
        """Makes or verifies the due backup. Does neither if only the clean-up had failed.

        Otherwise each retry would add another dump.
        """
        run = await self._ledger.find(JOB)
        backup = await asyncio.to_thread(self._unfinished_backup, run)
        if backup is None:
            await self._make_backup()
        elif not (backup.state == "restored" if self._restore else backup.verification is not None):
            await self._verify(backup.name)

    def _unfinished_backup(self, run: JobRun) -> Backup | None:
        """Returns the newest backup if it belongs to the failed run and is not known to be damaged.

        A backup from before the last successful run belongs to that run, whatever the schedule is.
        """
        now = datetime.now(UTC)
        newest = next((each for each in reversed(self._backups.list_own()) if not each.is_postdated(now)), None)
        if newest is None or newest.state == "damaged" or self._schedule(newest.created_at) <= now:
            return None
        done = run.last_succeeded
        return None if done is not None and newest.created_at <= done <= run.now else newest

    async def _verify(self, name: str) -> None:
        with BACKUPS.timed("verify"):
            await _in_thread(partial(self._backups.verify, name, restore=self._restore))
        _log.info("backup verified", backup=name, restored=self._restore)

    async def _clean_up(self) -> None:
        with BACKUPS.timed("cleanup"):
            cleaned = await asyncio.to_thread(self._backups.cleanup)
        for name in cleaned.removed:
            _log.info("backup removed", backup=name)
        for name in cleaned.in_use:
            _log.info("backup in use is not removed yet", backup=name)
        for kept in cleaned.kept:
            _log.info("backup kept past its retention", backup=kept.name, reason=kept.reason)
        for name in cleaned.unfinished:
            _log.info("unfinished backup removed", backup=name)

    async def _read_status(self) -> None:
        try:
            kept = await asyncio.to_thread(self._backups.list_own, include_unreadable=True)
            run = await self._ledger.find(JOB)
        except (BackupError, ServiceError) as error:
            reason = error.reason if isinstance(error, ServiceError) else str(error)
            if reason != self._logged:  # logs an outage once
                _log.warning("backups cannot be read", reason=reason)
            self._logged = reason
            return
        self._logged = ""
        self._failed_at = run.last_finished if run.last_error is not None else None
        now = datetime.now(UTC)
        last = self._latest(kept, now)
        kept = [backup for backup in kept if not backup.is_postdated(now)]
        verified = [backup for backup in kept if backup.verified]
        self._newest = kept[-1] if kept else None
        states = [backup.state for backup in kept]
        self._seen = BackupSummary(
            last=last.created_at if last else None,
            last_size=last.size if last else 0,
            last_verified=verified[-1].created_at if verified else None,
            states={state: states.count(state) for state in get_args(State)},
            due=self._schedule(last.created_at) if last else self._began,
        )
        BACKUPS.set(self._seen)

    def _latest(self, kept: Sequence[Backup], now: datetime) -> Backup | None:
        """Returns the newest usable backup. Logs once why a newer one is skipped."""
        latest, skipped = latest_of(kept, lambda backup: backup.ineligible_reason(now))
        for each in skipped:
            if each not in self._skipped:
                _log.warning("backup skipped", backup=each.name, reason=each.reason)
        self._skipped = skipped
        return latest


def _store(settings: Settings, folder: Path) -> BackupStore:
    if settings.backup_s3_url is None:
        return FolderStore(folder)
    # Imported here, because the library loads slowly and most installations have no S3 store.
    from vsyncd.backup.bucket import Bucket, BucketStore  # noqa: PLC0415  see above

    bucket = Bucket(
        url=settings.backup_s3_url,
        endpoint=settings.backup_s3_endpoint,
        region=settings.backup_s3_region,
        access_key_id=settings.backup_s3_access_key_id,
        secret_access_key=settings.secret("backup_s3_secret_access_key"),
    )
    return BucketStore(bucket, staging=folder)


def _text_of(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


async def _in_thread(work: Callable[[Task], T]) -> T:
    """Runs blocking work in a thread. A cancellation asks it to stop, and waits until it has cleaned up."""
    task = Task()
    thread = asyncio.ensure_future(asyncio.to_thread(work, task))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        task.stop()
        await asyncio.gather(thread, return_exceptions=True)
        raise
