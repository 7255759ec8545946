"""One direction of one migration, read and ready to run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vsyncd.migrate.errors import BadMigrationFiles, FileMissing
from vsyncd.migrate.files import Migration, checksum_of, read_sql
from vsyncd.migrate.options import Options, read_options
from vsyncd.migrate.statements import Statement, put_schema, split_statements

Direction = Literal["up", "down"]

# PREPARED acts on another transaction, and ROLLBACK TO on a savepoint.
_ENDS_TRANSACTION = re.compile(
    r"(?:ABORT|BEGIN|END|PREPARE TRANSACTION|START TRANSACTION"
    r"|(?:COMMIT|ROLLBACK)(?! PREPARED\b| (?:WORK |TRANSACTION )?TO\b))\b",
    re.IGNORECASE,
)
_BEGIN = re.compile(r"(?:BEGIN(?: WORK| TRANSACTION)?|START TRANSACTION)$", re.IGNORECASE)
_COMMIT = re.compile(r"(?:COMMIT|END)(?: WORK| TRANSACTION)?$", re.IGNORECASE)
_SAVEPOINT = re.compile(r"(?:SAVEPOINT|RELEASE|ROLLBACK (?:WORK |TRANSACTION )?TO)\b", re.IGNORECASE)
# They keep both directions in one file, which would be executed as a whole.
_OTHER_TOOL = re.compile(r"^--[ \t]*(?:migrate:(?:up|down)|\+(?:goose|migrate)[ \t]+(?:Up|Down))\b", re.MULTILINE)


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
    _check_tool(text, path)
    options = read_options(text, path)
    statements = tuple(split_statements(put_schema(text, schema)))
    if options.transaction and len(statements) > 1 and _BEGIN.match(statements[0].code):
        # golang-migrate's users write the transaction into the file. It is the one that the file runs in anyway.
        statements = statements[1:-1] if _COMMIT.match(statements[-1].code) else statements
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
    line = statement.line
    if (command := statement.psql_command()) is not None:
        name, line = command
        problem = f"{name} is a command of psql, not SQL"
    elif statement.copies_from_client:
        problem = "COPY FROM STDIN and COPY TO STDOUT need a client that sends or receives the rows: use INSERT"
    elif _ENDS_TRANSACTION.match(statement.code):
        problem = f"{statement.words} would end the transaction that a migration runs in"
        if not options.transaction:
            problem = (
                f"{statement.words} cannot be used in a file without a transaction: each statement is executed alone"
            )
    elif _SAVEPOINT.match(statement.code) and not options.transaction:
        problem = f"{statement.words} needs a transaction, and the file says: no transaction"
    elif statement.needs_no_transaction and options.transaction:
        problem = (
            f"{statement.words} cannot run in a transaction: begin the file with the line -- vsyncd: no transaction"
        )
    else:
        return
    raise BadMigrationFiles(f"{path}:{line}: {problem}")


def _check_tool(text: str, path: Path) -> None:
    if (match := _OTHER_TOOL.search(text)) is not None:
        line = text.count("\n", 0, match.start()) + 1
        raise BadMigrationFiles(
            f"{path}:{line}: {match[0]!r} belongs to another migration tool, which keeps both directions in one file:"
            " split it into an up file and a down file"
        )
