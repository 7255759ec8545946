"""One direction of one migration, read and ready to run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vsyncd.migrate.errors import BadMigrationFiles, FileMissing
from vsyncd.migrate.files import Migration, read_sql
from vsyncd.migrate.statements import Statement, put_schema, split_statements

Direction = Literal["up", "down"]

# What would end the transaction that a migration runs in.
_ENDS_TRANSACTION = ("ABORT", "BEGIN", "COMMIT", "END", "PREPARE TRANSACTION", "ROLLBACK", "START TRANSACTION")


@dataclass(frozen=True, kw_only=True)
class Script:
    """The statements of one file."""

    migration: Migration
    direction: Direction
    path: Path
    statements: tuple[Statement, ...]

    def failure(self, reason: str, *, line: int | None = None) -> str:
        """What an operator reads when it failed: where, why, and how the database was left."""
        stays_at = self.migration.version - (self.direction == "up")
        where = f"{self.path}:{line}" if line else str(self.path)
        return f"{where}: {reason.rstrip('.')}. The set {self.migration.set_name} stays at version {stays_at}"


def read_script(migration: Migration, *, direction: Direction, schema: str) -> Script:
    """Read the file of this direction for a schema. Raises FileMissing and BadMigrationFiles."""
    path = migration.up if direction == "up" else migration.down
    if path is None:
        raise FileMissing(f"{migration} has no {direction} file")
    statements = tuple(split_statements(put_schema(read_sql(path), schema)))
    for statement in statements:
        if f"{statement.words} ".startswith(tuple(f"{words} " for words in _ENDS_TRANSACTION)):
            raise BadMigrationFiles(
                f"{path}:{statement.line}: {statement.words} would end the transaction that a migration runs in"
            )
    return Script(migration=migration, direction=direction, path=path, statements=statements)
