"""Which backups have had their time. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from vsyncd.backup.records import Backup, Skipped


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """`days`: the age at which a backup goes, 0 for none. `count`: how many of the newest are kept, 0 for any number.
    What either says goes is removed."""

    days: float
    count: int


class Expiry(NamedTuple):
    """The backups to be removed, and those that are past the retention and stay nevertheless; the oldest first."""

    expired: list[Backup]
    kept: list[Skipped]


def apply_retention(backups: Sequence[Backup], retention: Retention, *, now: datetime) -> Expiry:
    """Decides about the backups of one database.

    The newest good one is never removed, nor the newest that a verification found good, nor the newest that was really
    restored: a newer one may turn out to be damaged. Damaged ones are removed by their age alone. So are those that
    could not be restored; but if no backup is good, the newest of them is kept, since the server may be to blame.
    One that is dated in the future does not count, and is kept until then.
    """
    known = [backup for backup in backups if not backup.is_ahead(now)]
    newest_first = sorted(known, key=lambda backup: backup.created_at, reverse=True)
    good = [backup for backup in newest_first if backup.good]
    verified = [backup for backup in good if backup.verified]
    restored = [backup for backup in good if backup.restored]
    last_resort = [] if good else [backup for backup in newest_first if backup.unrestorable]
    groups = {
        "the newest that was restored": restored,
        "the newest that was verified": verified,
        "the newest good one": good,
        "the newest, and none is good": last_resort,
    }
    kept = {group[0].name: f"it is {reason}" for reason, group in groups.items() if group}
    too_many = {backup.name for backup in good[retention.count :]} if retention.count else set()

    def is_old(backup: Backup) -> bool:
        return bool(retention.days) and now - backup.created_at >= timedelta(days=retention.days)

    past = [backup for backup in reversed(newest_first) if backup.name in too_many or is_old(backup)]
    ahead = [Skipped(backup.name, "it is dated in the future") for backup in backups if backup.is_ahead(now)]
    return Expiry(
        expired=[backup for backup in past if backup.name not in kept],
        kept=[*(Skipped(backup.name, kept[backup.name]) for backup in past if backup.name in kept), *ahead],
    )
