"""Which backups have had their time. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from vsyncd.backup.records import Backup


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """`days`: the age at which a backup goes, 0 for none. `count`: how many of the newest are kept, 0 for any number.
    What either says goes is removed."""

    days: float
    count: int


def expired(backups: Sequence[Backup], retention: Retention, *, now: datetime) -> list[Backup]:
    """Of one database's, those to be removed, the oldest first.

    Never the newest good one, nor the newest that a verification found good, nor the newest that was really restored: a
    newer one may turn out to be none. Damaged ones count for nothing, and go by their age alone. So do those that could
    not be restored; but where there is nothing better the newest of them stays, since the server may be to blame.
    One of a time that is still to come is in nobody's place, and stays until then.
    """
    known = [backup for backup in backups if not backup.is_ahead(now)]
    newest_first = sorted(known, key=lambda backup: backup.created_at, reverse=True)
    good = [backup for backup in newest_first if backup.good]
    verified = [backup for backup in good if backup.verified]
    restored = [backup for backup in good if backup.restored]
    last_resort = [] if good else [backup for backup in newest_first if backup.unrestorable]
    kept = {group[0].name for group in (good, verified, restored, last_resort) if group}
    too_many = {backup.name for backup in good[retention.count :]} if retention.count else set()

    def is_old(backup: Backup) -> bool:
        return bool(retention.days) and now - backup.created_at >= timedelta(days=retention.days)

    return [
        backup
        for backup in reversed(newest_first)
        if backup.name not in kept and (backup.name in too_many or is_old(backup))
    ]
