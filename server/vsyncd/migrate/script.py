"""One direction of one migration, read and ready to run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vsyncd.migrate.errors import BadMigrationFiles, FileMissing
from vsyncd.migrate.files import Migration, checksum_of, read_sql
from vsyncd.migrate.options import Options, read_options
from vsyncd.migrate.statements import Statement, put_schema, split_statements

Direction = Literal["up", "down"]

# What would end the transaction that a migration runs in.
_ENDS_TRANSACTION = ("ABORT", "BEGIN", "COMMIT", "END", "PREPARE TRANSACTION", "ROLLBACK", "START TRANSACTION")


@dataclass(frozen=True, kw_only=True)
class Script:
    """The statements of one file. `checksum` is the SHA-256 of this very file."""

    migration: Migration
    direction: Direction
    path: Path
    options: Options
    statements: tuple[Statement, ...]
    checksum: str

    @property
    def stays_at(self) -> int:
        """The version that the set is left at when it fails."""
        return self.migration.previous if self.direction == "up" else self.migration.version

    def place(self, statement: Statement, position: int | None = None) -> str:
        """File, line and number of a statement; `position`: of a character in it, from 1."""
        number = self.statements.index(statement) + 1
        return f"{self.path}:{statement.line_at(position)}: statement {number} of {len(self.statements)}"


def read_script(migration: Migration, *, direction: Direction, schema: str) -> Script:
    """Read the file of this direction for a schema. Raises FileMissing and BadMigrationFiles."""
    path = migration.up if direction == "up" else migration.down
    if path is None:
        raise FileMissing(f"there is no {migration}.{direction}.sql")
    text = read_sql(path)
    options = read_options(text, path)
    statements = tuple(split_statements(put_schema(text, schema)))
    for statement in statements:
        _check(statement, path, options)
    return Script(
        migration=migration,
        direction=direction,
        path=path,
        options=options,
        statements=statements,
        checksum=checksum_of(path),
    )


def _check(statement: Statement, path: Path, options: Options) -> None:
    if f"{statement.words} ".startswith(tuple(f"{words} " for words in _ENDS_TRANSACTION)):
        kind = "that a migration runs in" if options.transaction else "which this file has none of"
        raise BadMigrationFiles(f"{path}:{statement.line}: {statement.words} would end the transaction {kind}")
    if options.transaction and statement.is_concurrent:
        raise BadMigrationFiles(
            f"{path}:{statement.line}: {statement.words} cannot run in a transaction:"
            " begin the file with the line -- vsyncd: no transaction"
        )
