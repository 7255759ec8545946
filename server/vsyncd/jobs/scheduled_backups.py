"""Backups that come round by themselves: one of all instances makes them, and every one tells how they stand."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Final, TypeVar, get_args

from vsyncd.backup.errors import BackupError
from vsyncd.backup.manager import Backups
from vsyncd.backup.records import Backup, Skipped, State, latest_of
from vsyncd.backup.subprocesses import Stop
from vsyncd.config import Settings
from vsyncd.config.schedules import next_due, parse_schedule
from vsyncd.core.errors import ServiceError
from vsyncd.jobs.backups import backups_of
from vsyncd.jobs.ledger import JobLedger, JobRun
from vsyncd.jobs.runner import Job, JobFailed
from vsyncd.observability.logs import logger
from vsyncd.observability.metrics import BACKUPS, BackupSummary

T = TypeVar("T")

JOB: Final = "backup"
# Seconds after which a failed run is tried again, unless the schedule says sooner.
_RETRY: Final = 600.0
# Seconds between two looks at what is kept.
_LOOK: Final = 60.0

_log = logger(__name__)


class BackupJobs:
    """The jobs of a service whose BACKUP_SCHEDULE is set. The ledger says how their last run ended."""

    def __init__(self, settings: Settings, ledger: JobLedger) -> None:
        """Raises ConfigError when no place is configured for backups."""
        if settings.backup_schedule is None:
            raise AssertionError("there is no schedule")
        self._backups: Final[Backups] = backups_of(settings, on_step=BACKUPS.count)
        self._schedule = parse_schedule(settings.backup_schedule)
        self._restore = settings.backup_check == "restore"
        self._began = datetime.now(UTC)
        self._ledger = ledger
        self._seen: BackupSummary | None = None
        self._newest: Backup | None = None
        self._failed_at: datetime | None = None
        self._told = ""
        self._skipped: Sequence[Skipped] = ()

    @property
    def making(self) -> Job:
        """Makes a backup when one is due, verifies it, and removes what has had its time. For one of all instances."""
        first = self._schedule.after(self._began)
        return Job(
            name=JOB,
            interval=(self._schedule.after(first) - first).total_seconds(),
            due=partial(next_due, self._schedule),
            work=self._make,
            exclusive=True,
            retry=_RETRY,
            again=self._make_again,
        )

    @property
    def looking(self) -> Job:
        """Looks at what is kept, for metrics and health. For every instance."""
        return Job(name="backup status", interval=_LOOK, work=self._look)

    def metadata(self) -> Mapping[str, str]:
        """For the health report: how backups stand."""
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

    async def _make(self) -> None:
        """Raises JobFailed."""
        await self._each(self._make_one, self._clean_up)

    async def _make_again(self) -> None:
        """After a run that failed. Raises JobFailed."""
        await self._each(self._mend_one, self._clean_up)

    async def _each(self, *steps: Callable[[], Awaitable[None]]) -> None:
        """Every one, also when one before it failed: what has had its time goes, whatever became of the new one."""
        failures = []
        for step in steps:
            try:
                await step()
            except BackupError as error:
                failures.append(error)
        await self._look()
        if failures:
            raise JobFailed("; ".join(dict.fromkeys(map(str, failures)))) from failures[0]

    async def _make_one(self) -> None:
        made = await _in_thread(lambda stop: self._backups.create(stop=stop))
        _log.info("backup made", backup=made.name, size=made.size)
        await self._verify(made.name)

    async def _mend_one(self) -> None:
        """What is still to be done for the one of this time: to make it, to verify it, or nothing, when what failed was
        the clean-up. Another dump would be one more of the same, every ten minutes."""
        run = await self._ledger.look(JOB)
        left = await asyncio.to_thread(self._left, run)
        if left is None:
            await self._make_one()
        elif not (left.restored if self._restore else left.verification is not None):
            await self._verify(left.name)

    def _left(self, run: JobRun) -> Backup | None:
        """The newest backup, if it is that of this time, and whole as far as is known. One that was there already when
        a run last succeeded is of another time, whatever the schedule says."""
        now = datetime.now(UTC)
        newest = next((each for each in reversed(self._backups.ours()) if not each.is_ahead(now)), None)
        if newest is None or newest.damaged or self._schedule.after(newest.created_at) <= now:
            return None
        done = run.last_succeeded
        return None if done is not None and newest.created_at <= done <= run.now else newest

    async def _verify(self, name: str) -> None:
        await _in_thread(lambda stop: self._backups.verify(name, restore=self._restore, stop=stop))
        _log.info("backup verified", backup=name, restored=self._restore)

    async def _clean_up(self) -> None:
        cleaned = await asyncio.to_thread(self._backups.cleanup)
        for name in cleaned.removed:
            _log.info("backup removed", backup=name)
        for name in cleaned.in_use:
            _log.info("backup is in use, and stays for now", backup=name)
        for kept in cleaned.kept:
            _log.info("backup kept past its retention", backup=kept.name, reason=kept.reason)
        for name in cleaned.unfinished:
            _log.info("unfinished backup cleared away", backup=name)

    async def _look(self) -> None:
        try:
            kept = await asyncio.to_thread(self._backups.ours, unreadable_too=True)
            run = await self._ledger.look(JOB)
        except (BackupError, ServiceError) as error:
            reason = error.reason if isinstance(error, ServiceError) else str(error)
            if reason != self._told:  # an outage is long, and looks are many
                _log.warning("backups cannot be looked at", reason=reason)
            self._told = reason
            return
        self._told = ""
        self._failed_at = run.last_finished if run.last_error is not None else None
        now = datetime.now(UTC)
        last = self._latest(kept, now)
        kept = [backup for backup in kept if not backup.is_ahead(now)]
        verified = [backup for backup in kept if backup.verified]
        self._newest = kept[-1] if kept else None
        states = [backup.state for backup in kept]
        self._seen = BackupSummary(
            last=last.created_at if last else None,
            last_size=last.size if last else 0,
            last_verified=verified[-1].created_at if verified else None,
            states={state: states.count(state) for state in get_args(State)},
            due=self._schedule.after(last.created_at) if last else self._began,
        )
        BACKUPS.set(self._seen)

    def _latest(self, kept: Sequence[Backup], now: datetime) -> Backup | None:
        """The newest good one. Logs once why a newer one is skipped."""
        latest, skipped = latest_of(kept, lambda backup: backup.unfit(now))
        for each in skipped:
            if each not in self._skipped:
                _log.warning("backup skipped", backup=each.name, reason=each.reason)
        self._skipped = skipped
        return latest


def _text_of(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


async def _in_thread(work: Callable[[Stop], T]) -> T:
    """Work that blocks. When it is cancelled, it is asked to end, and waited for: it clears away what it began."""
    stop = Stop()
    working = asyncio.ensure_future(asyncio.to_thread(partial(work, stop)))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        stop.ask()
        await asyncio.gather(working, return_exceptions=True)
        raise
