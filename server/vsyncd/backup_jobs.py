"""Backups that come round by themselves: one of all instances makes them, and every one tells how they stand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Final, TypeVar

from vsyncd.backup.errors import BackupError
from vsyncd.backup.manager import Backups
from vsyncd.backup.processes import Stop
from vsyncd.backup.schedule import next_due, parse_schedule
from vsyncd.backups import backups_of
from vsyncd.config import Settings
from vsyncd.jobs import Job, JobFailed
from vsyncd.logs import logger
from vsyncd.metrics import BACKUPS
from vsyncd.metrics.backups import BackupsSeen

T = TypeVar("T")

JOB: Final = "backup"
# Seconds after which a failed run is tried again, unless the schedule says sooner.
_RETRY: Final = 600.0
# Seconds between two looks at what is kept.
_LOOK: Final = 60.0

_log = logger(__name__)


class BackupJobs:
    """The jobs of a service whose BACKUP_SCHEDULE is set."""

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError when no place is configured for backups."""
        if settings.backup_schedule is None:
            raise AssertionError("there is no schedule")
        self._backups: Final[Backups] = backups_of(settings, on_step=BACKUPS.count)
        self._schedule = parse_schedule(settings.backup_schedule)
        self._restore = settings.backup_check == "restore"
        self._began = datetime.now(UTC)
        self._seen: BackupsSeen | None = None

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
        )

    @property
    def looking(self) -> Job:
        """Looks at what is kept, for metrics and health. For every instance."""
        return Job(name="backup status", interval=_LOOK, work=self._look)

    def metadata(self) -> Mapping[str, str]:
        """For the health report: how backups stand."""
        if (seen := self._seen) is None:
            return {"backup": "not looked at yet"}
        state = "none" if seen.last is None else "overdue" if seen.due < datetime.now(UTC) else "on time"
        times = {"last_backup_at": seen.last, "last_verified_backup_at": seen.last_verified}
        known = {name: at.isoformat(timespec="seconds").replace("+00:00", "Z") for name, at in times.items() if at}
        return {"backup": state, **known}

    async def _make(self) -> None:
        """Raises JobFailed."""
        try:
            made = await _in_thread(lambda stop: self._backups.create(stop=stop))
            _log.info("backup made", backup=made.name, size=made.size)
            await _in_thread(lambda stop: self._backups.verify(made.name, restore=self._restore, stop=stop))
            _log.info("backup verified", backup=made.name, restored=self._restore)
            for name in await asyncio.to_thread(self._backups.cleanup):
                _log.info("backup removed", backup=name)
        except BackupError as error:
            raise JobFailed(str(error)) from error
        finally:
            await self._look()

    async def _look(self) -> None:
        try:
            kept = await asyncio.to_thread(self._backups.list)
        except BackupError as error:
            _log.warning("backups cannot be looked at", reason=str(error))
            return
        good = [backup for backup in kept if backup.good and backup.database == self._backups.prefix]
        verified = [backup for backup in good if backup.verified]
        last = good[-1] if good else None
        self._seen = BackupsSeen(
            last=last.created_at if last else None,
            last_size=last.size if last else 0,
            last_verified=verified[-1].created_at if verified else None,
            states=[backup.state for backup in kept],
            due=self._schedule.after(last.created_at) if last else self._began,
        )
        BACKUPS.tell(self._seen)


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
