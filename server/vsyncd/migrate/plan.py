"""What is to be done, from the files and the record. Without a database."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vsyncd.migrate.errors import ChecksumChanged, FileMissing, OutOfOrder
from vsyncd.migrate.files import Migration
from vsyncd.migrate.store import Applied


def plan_up(
    migrations: Sequence[Migration], applied: Iterable[Applied], *, steps: int | None = None
) -> tuple[Migration, ...]:
    """The migrations to apply, in order; at most `steps`. Versions that only the database knows are let be.

    Raises ChecksumChanged and OutOfOrder.
    """
    record = {(row.set_name, row.version): row for row in applied}
    last = _last_versions(record.values())
    pending = []
    for migration in migrations:
        row = record.get((migration.set_name, migration.version))
        if row is None:
            if migration.version < last.get(migration.set_name, 0):
                raise OutOfOrder(f"{migration} is not applied, and a later version of its set is")
            pending.append(migration)
        elif row.checksum != migration.checksum:
            raise ChecksumChanged(
                f"{migration.up.name} of the set {migration.set_name} was changed after it was applied on "
                f"{row.applied_at:%Y-%m-%d}: put the file back, and write a new migration for the change"
            )
    return tuple(pending[:steps])


def plan_down(
    migrations: Iterable[Migration], applied: Sequence[Applied], *, steps: int | None = None
) -> tuple[Migration, ...]:
    """The migrations to take back, what was applied last first; at most `steps`. Raises FileMissing."""
    files = {(migration.set_name, migration.version): migration for migration in migrations}
    planned = []
    for row in reversed(applied[-steps:] if steps else applied):
        migration = files.get((row.set_name, row.version))
        if migration is None or migration.down is None:
            raise FileMissing(f"there is no {row.set_name}/{row.version:06d}_{row.name}.down.sql")
        planned.append(migration)
    return tuple(planned)


def _last_versions(applied: Iterable[Applied]) -> dict[str, int]:
    last: dict[str, int] = {}
    for row in applied:
        last[row.set_name] = max(row.version, last.get(row.set_name, 0))
    return last
