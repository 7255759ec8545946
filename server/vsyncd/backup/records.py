"""Backup records: the state of a backup, which one is the latest, and which ones have expired. No I/O."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Literal, NamedTuple

from vsyncd.backup.manifest import BackupVerification, DumpFormat, Manifest, created_at_of
from vsyncd.backup.store import BackupStore

# The permitted difference between the clocks of the server and of this machine.
_MAX_CLOCK_SKEW: Final = timedelta(hours=1)

# From worst to best.
State = Literal["damaged", "unrestorable", "unverified", "verified", "restored"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """What is known about a backup without reading its dump.

    `manifest` is None if it is missing or unreadable; without one the backup is not `complete`. `problems` are those
    visible in the list of files, `verification` is the last one.
    """

    name: str
    size: int
    manifest: Manifest | None
    complete: bool = True
    problems: tuple[str, ...] = ()
    verification: BackupVerification | None = None

    @property
    def created_at(self) -> datetime:
        """The time of the snapshot, from the name."""
        return created_at_of(self.name)

    def is_postdated(self, now: datetime) -> bool:
        """Whether the backup is dated in the future, because the server's clock was ahead. Its age is unknown."""
        return self.created_at > now + _MAX_CLOCK_SKEW

    @property
    def state(self) -> State:
        if self.problems or (self.verification is not None and self.verification.problems):
            return "damaged"
        if self.verification is None:
            return "unverified"
        if self.verification.restore_error is not None:
            return "unrestorable"
        return "restored" if self.verification.restored else "verified"

    @property
    def good(self) -> bool:
        """Whether no problem is known."""
        return self.state not in {"damaged", "unrestorable"}

    @property
    def verified(self) -> bool:
        return self.state in {"verified", "restored"}

    @property
    def findings(self) -> tuple[str, ...]:
        if self.problems or self.verification is None:
            return self.problems
        error = self.verification.restore_error
        return self.verification.problems or ((f"restore failed: {error}",) if error else ())

    def ineligible_reason(self, now: datetime) -> str | None:
        """Returns why the backup cannot be `latest`, or None if it can."""
        if not self.good:
            return f"{self.state}: {'; '.join(self.findings)}"
        return "dated in the future" if self.is_postdated(now) else None


class Skipped(NamedTuple):
    """A backup that was not selected, and the reason."""

    name: str
    reason: str


def latest_of(
    backups: Iterable[Backup], ineligible_reason: Callable[[Backup], str | None]
) -> tuple[Backup | None, Sequence[Skipped]]:
    """Returns the newest backup without an `ineligible_reason`, if any, and the newer ones, newest first."""
    skipped: list[Skipped] = []
    for backup in sorted(backups, key=lambda each: each.created_at, reverse=True):
        if (reason := ineligible_reason(backup)) is None:
            return backup, skipped
        skipped.append(Skipped(backup.name, reason))
    return None, skipped


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """A backup expires at the age of `days`, or when there are `count` newer good ones; 0 disables either limit."""

    days: float
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupConfig:
    """The database to back up, the store, and the options of dumps and restores.

    `conninfo` is called for each operation, since the password may have changed; `database` is the name in it.
    `compression` is pg_dump's option: gzip, zstd:3, none. `jobs`: parallel connections; a dump in the format `custom`
    uses one. `pg_bin`: the folder of pg_dump and pg_restore; searched if None. `vsyncd_version` is recorded in the
    manifest. `known_migrations`: the last migration of each set that this vsyncd knows.
    """

    conninfo: Callable[[], str]
    database: str
    schema: str
    store: BackupStore
    retention: Retention
    known_migrations: Mapping[str, int]
    vsyncd_version: str
    dump_format: DumpFormat = "directory"
    compression: str = "gzip"
    jobs: int = 4
    pg_bin: Path | None = None


class Expiry(NamedTuple):
    """The backups to remove, and those past the retention that are kept nevertheless; oldest first."""

    expired: list[Backup]
    kept: list[Skipped]


def apply_retention(backups: Sequence[Backup], retention: Retention, *, now: datetime) -> Expiry:
    """Decide which backups of one database have expired.

    The newest good, the newest verified and the newest restored backup are kept: a newer one may turn out to be
    damaged. Damaged and unrestorable backups expire by age only; if no backup is good, the newest unrestorable one is
    kept, because the server may be the cause. Postdated backups do not count and are kept.
    """
    known = [backup for backup in backups if not backup.is_postdated(now)]
    newest_first = sorted(known, key=lambda backup: backup.created_at, reverse=True)
    good = [backup for backup in newest_first if backup.good]
    groups = {
        "newest restored backup": [backup for backup in good if backup.state == "restored"],
        "newest verified backup": [backup for backup in good if backup.verified],
        "newest good backup": good,
        "newest backup, and none is good": []
        if good
        else [backup for backup in newest_first if backup.state == "unrestorable"],
    }
    protected = {group[0].name: reason for reason, group in groups.items() if group}
    surplus = {backup.name for backup in good[retention.count :]} if retention.count else set()

    def is_old(backup: Backup) -> bool:
        return bool(retention.days) and now - backup.created_at >= timedelta(days=retention.days)

    past = [backup for backup in reversed(newest_first) if backup.name in surplus or is_old(backup)]
    postdated = [Skipped(backup.name, "dated in the future") for backup in backups if backup.is_postdated(now)]
    return Expiry(
        expired=[backup for backup in past if backup.name not in protected],
        kept=[
            *(Skipped(backup.name, protected[backup.name]) for backup in past if backup.name in protected),
            *postdated,
        ],
    )
