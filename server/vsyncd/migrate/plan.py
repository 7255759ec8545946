"""What is to be done, from the files and the record. Without a database."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from vsyncd.migrate.errors import ChecksumChanged, FileMissing, NoSuchVersion, OutOfOrder
from vsyncd.migrate.files import Migration, label_of
from vsyncd.migrate.script import Direction
from vsyncd.migrate.store import Applied


class Plan(NamedTuple):
    """The migrations to apply or to take back, in order."""

    direction: Direction
    migrations: tuple[Migration, ...]


class Command(Protocol):
    """What an operator wants."""

    def plan(self, migrations: Sequence[Migration], applied: Sequence[Applied]) -> Plan:
        """What has to be done for it, with the files and the record of the sets that it concerns.

        Raises ChecksumChanged, OutOfOrder, FileMissing, NoSuchVersion.
        """
        ...


@dataclass(frozen=True)
class Up:
    """Apply what is missing, at most `steps` migrations."""

    steps: int | None = None

    def plan(self, migrations: Sequence[Migration], applied: Sequence[Applied]) -> Plan:
        """See Command."""
        return Plan("up", plan_up(migrations, applied, steps=self.steps))


@dataclass(frozen=True)
class Down:
    """Take back what was applied last: `steps` migrations, or all (None)."""

    steps: int | None = 1

    def plan(self, migrations: Sequence[Migration], applied: Sequence[Applied]) -> Plan:
        """See Command."""
        return Plan("down", plan_down(migrations, applied, steps=self.steps))


@dataclass(frozen=True)
class Goto:
    """Bring one set to a version, in whichever direction that is; 0: take back all of it."""

    version: int

    def plan(self, migrations: Sequence[Migration], applied: Sequence[Applied]) -> Plan:
        """See Command."""
        check_version(migrations, self.version)
        if (back := [row for row in applied if row.version > self.version]) != []:
            return Plan("down", plan_down(migrations, back))
        return Plan("up", plan_up([each for each in migrations if each.version <= self.version], applied))


def check_version(migrations: Sequence[Migration], version: int) -> None:
    """Raises NoSuchVersion when the files of a set have no such version, other than 0."""
    if version != 0 and version not in {migration.version for migration in migrations}:
        last = max((migration.version for migration in migrations), default=0)
        raise NoSuchVersion(f"there is no version {version}: the files go up to {last}")


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
                raise OutOfOrder(late(migration))
            pending.append(migration)
        elif row.checksum != migration.checksum:
            raise ChecksumChanged(changed(migration, row))
    return tuple(pending[:steps])


def plan_down(
    migrations: Iterable[Migration], applied: Sequence[Applied], *, steps: int | None = None
) -> tuple[Migration, ...]:
    """The migrations to take back, what was applied last first; at most `steps`. Raises FileMissing.

    Which set comes next the times say, and within a set the versions: what a version stands on is below it, whatever
    clock was read when it was applied.
    """
    files = {(migration.set_name, migration.version): migration for migration in migrations}
    planned = []
    ordered = _in_order_of_versions(applied)
    for row in reversed(ordered[-steps:] if steps else ordered):
        migration = files.get((row.set_name, row.version))
        if migration is None or migration.down is None:
            label = label_of(row.set_name, row.version, row.name)
            raise FileMissing(f"{label} cannot be taken back: there is no {label}.down.sql. Nothing was executed")
        planned.append(migration)
    return tuple(planned)


def changed(migration: Migration, row: Applied) -> str:
    """What to say of a file that is no longer what was applied."""
    return (
        f"{migration.up.name} of the set {migration.set_name} was changed after it was applied on "
        f"{row.applied_at:%Y-%m-%d}: put the file back, and write a new migration for the change"
    )


def late(migration: Migration) -> str:
    """What to say of a file that came after its successors were applied."""
    return f"{migration} is not applied, and a later version of its set is: give it the next free number"


def _in_order_of_versions(applied: Sequence[Applied]) -> list[Applied]:
    """Each set where it stands, and its versions among themselves."""
    by_version = sorted(applied, key=lambda row: row.version)
    ascending = {
        name: iter([row for row in by_version if row.set_name == name]) for name in {r.set_name for r in applied}
    }
    return [next(ascending[row.set_name]) for row in applied]


def _last_versions(applied: Iterable[Applied]) -> dict[str, int]:
    last: dict[str, int] = {}
    for row in applied:
        last[row.set_name] = max(row.version, last.get(row.set_name, 0))
    return last
