"""Plans which migrations to apply or revert, from the files and the applied versions. No I/O."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from vsyncd.migrate.errors import MigrateError
from vsyncd.migrate.files import Migration, label_of
from vsyncd.migrate.script import Direction
from vsyncd.migrate.store import Applied


class Plan(NamedTuple):
    direction: Direction
    migrations: tuple[Migration, ...]


@dataclass(frozen=True)
class Up:
    """Apply pending migrations, at most `steps`. Ignores applied versions without a file."""

    steps: int | None = None

    def plan(self, migrations: Sequence[Migration], applied: Sequence[Applied]) -> Plan:
        rows = {(row.set_name, row.version): row for row in applied}
        last = last_versions(applied)
        pending = []
        for migration in migrations:
            row = rows.get((migration.set_name, migration.version))
            if row is None:
                if migration.version < last.get(migration.set_name, 0):
                    raise MigrateError(out_of_order_message(migration))
                pending.append(migration)
            elif row.checksum != migration.checksum:
                raise MigrateError(changed_message(migration, row))
        return Plan("up", tuple(pending[: self.steps]))


@dataclass(frozen=True)
class Down:
    """Revert the migrations that were applied last: `steps`, or all (None).

    The times decide between sets. Within a set the versions decide, because later versions depend on earlier ones even
    if the clock was set back.
    """

    steps: int | None = 1

    def plan(self, migrations: Sequence[Migration], applied: Sequence[Applied]) -> Plan:
        files = {(migration.set_name, migration.version): migration for migration in migrations}
        planned = []
        ordered = _sorted_within_sets(applied)
        for row in reversed(ordered[-self.steps :] if self.steps else ordered):
            migration = files.get((row.set_name, row.version))
            if migration is None or migration.down is None:
                label = label_of(row.set_name, row.version, row.name)
                raise MigrateError(f"{label} cannot be reverted: {label}.down.sql does not exist. Nothing was executed")
            planned.append(migration)
        return Plan("down", tuple(planned))


@dataclass(frozen=True)
class Goto:
    """Migrate one set (the target's, or else DEFAULT_SET) up or down to a version; 0 reverts the whole set."""

    version: int

    def plan(self, migrations: Sequence[Migration], applied: Sequence[Applied]) -> Plan:
        check_version(migrations, self.version)
        if later := [row for row in applied if row.version > self.version]:
            return Down(None).plan(migrations, later)
        return Up().plan([each for each in migrations if each.version <= self.version], applied)


# A request of an operator. `plan` receives the files and the applied versions of the target's sets. It raises
# MigrateError.
Command = Up | Down | Goto
ALL_PENDING = Up()


def check_version(migrations: Sequence[Migration], version: int) -> None:
    """Raises MigrateError if the files of a set do not have this version. 0 is always valid."""
    if version != 0 and version not in {migration.version for migration in migrations}:
        last = max((migration.version for migration in migrations), default=0)
        raise MigrateError(f"version {version} does not exist: the last file has version {last}")


def last_versions(applied: Sequence[Applied]) -> dict[str, int]:
    return {row.set_name: row.version for row in sorted(applied, key=lambda row: row.version)}


def changed_message(migration: Migration, row: Applied) -> str:
    return (
        f"{migration.up.name} of the set {migration.set_name} was changed after it was applied on "
        f"{row.applied_at:%Y-%m-%d}: restore the file, and write a new migration for the change"
    )


def out_of_order_message(migration: Migration) -> str:
    return f"{migration} is not applied, but a later version of its set is: give it the next free number"


def _sorted_within_sets(applied: Sequence[Applied]) -> list[Applied]:
    """Sort each set's rows by version, at the positions that the set has."""
    by_version = sorted(applied, key=lambda row: row.version)
    ascending = {
        name: iter([row for row in by_version if row.set_name == name]) for name in {row.set_name for row in applied}
    }
    return [next(ascending[row.set_name]) for row in applied]
