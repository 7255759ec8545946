"""One direction of one migration: its options and statements, read from the file."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vsyncd.migrate.errors import BadMigrationFiles, MigrateError
from vsyncd.migrate.files import Migration, checksum_of, read_sql
from vsyncd.migrate.statements import Statement, put_schema, split_statements

Direction = Literal["up", "down"]

# While a migration waits for a lock, later requests for that lock queue behind it. It therefore gives up soon, and
# retries. A statement that takes longer than an hour should run outside a transaction, or in steps.
LOCK_TIMEOUT_MS = 1_000
STATEMENT_TIMEOUT_MS = 3_600_000

# In any line of the comment at the beginning of the file.
_FIRST_COMMENT = re.compile(r"(?:\s*--(?![ \t]*vsyncd:)[^\n]*\n)*\s*--[ \t]*vsyncd:[ \t]*([^\n]*)")
_TIMEOUT = re.compile(r"(lock_timeout|statement_timeout)\s*=\s*(\d{1,7})\s*(ms|s|min|h)?")
_FLAGS = {"no transaction", "repeatable"}
_MILLISECONDS = {"ms": 1, "s": 1_000, "min": 60_000, "h": 3_600_000}
_VALID_OPTIONS = (
    "no transaction, lock_timeout = TIME, statement_timeout = TIME (for example 500ms, 5s, 10min, 2h),"
    " and repeatable together with no transaction"
)

# PREPARED concerns another transaction, and ROLLBACK TO a savepoint.
_ENDS_TRANSACTION = re.compile(
    r"(?:ABORT|BEGIN|END|PREPARE TRANSACTION|START TRANSACTION"
    r"|(?:COMMIT|ROLLBACK)(?! PREPARED\b| (?:WORK |TRANSACTION )?TO\b))\b",
    re.IGNORECASE,
)
_BEGIN = re.compile(r"(?:BEGIN(?: WORK| TRANSACTION)?|START TRANSACTION)$", re.IGNORECASE)
_COMMIT = re.compile(r"(?:COMMIT|END)(?: WORK| TRANSACTION)?$", re.IGNORECASE)
_SAVEPOINT = re.compile(r"(?:SAVEPOINT|RELEASE|ROLLBACK (?:WORK |TRANSACTION )?TO)\b", re.IGNORECASE)
# Files with both directions, which would be executed as a whole.
_OTHER_TOOL = re.compile(r"^--[ \t]*(?:migrate:(?:up|down)|\+(?:goose|migrate)[ \t]+(?:Up|Down))\b", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options in a file's first comment.

        -- vsyncd: no transaction, repeatable, lock_timeout = 500ms, statement_timeout = 2h

    `no transaction`: each statement runs alone, as CREATE INDEX CONCURRENTLY requires. `repeatable`: each statement of
    such a file can be executed again, wherever it stopped. The timeouts are in milliseconds and apply to each
    statement; 0 is none, and a `lock_timeout` of None is the default.
    """

    transaction: bool = True
    repeatable: bool = False
    lock_timeout: int | None = None
    statement_timeout: int = STATEMENT_TIMEOUT_MS


@dataclass(frozen=True, kw_only=True)
class Script:
    """The statements of one file. `checksum` is the file's SHA-256."""

    migration: Migration
    direction: Direction
    path: Path
    options: Options
    statements: tuple[Statement, ...]
    checksum: str

    def location(self, statement: Statement, position: int | None = None) -> str:
        """Returns file, line and number of a statement. `position`: that of a character in it, from 1."""
        number = self.statements.index(statement) + 1
        return f"{self.path}:{statement.line_at(position)}: statement {number} of {len(self.statements)}"


def read_script(migration: Migration, *, direction: Direction, schema: str) -> Script:
    """Read the file of one direction for a schema. Raises MigrateError."""
    path = migration.up if direction == "up" else migration.down
    if path is None:
        raise MigrateError(f"the file {migration}.{direction}.sql does not exist")
    text = read_sql(path)
    _check_file(text, path)
    options = read_options(text, path)
    statements = tuple(split_statements(put_schema(text, schema)))
    if options.transaction and len(statements) > 1 and _BEGIN.match(statements[0].code):
        # Files of golang-migrate often contain the transaction, in which vsyncd runs the file anyway.
        statements = statements[1:-1] if _COMMIT.match(statements[-1].code) else statements
    for statement in statements:
        _check_statement(statement, path, options)
    return Script(
        migration=migration,
        direction=direction,
        path=path,
        options=options,
        statements=statements,
        checksum=checksum_of(path),
    )


def find_script(migration: Migration | None, *, direction: Direction, schema: str) -> Script | None:
    """Returns read_script's result, or None if the file does not exist. Raises BadMigrationFiles."""
    if migration is None or (direction == "down" and migration.down is None):
        return None
    return read_script(migration, direction=direction, schema=schema)


def read_options(text: str, path: Path) -> Options:
    """Parse the options in a file's first comment. Raises BadMigrationFiles for an unknown option."""
    match = _FIRST_COMMENT.match(text)
    if match is None:
        return Options()
    flags: set[str] = set()
    timeouts: dict[str, int] = {}
    for option in (option.strip() for option in match[1].split(",")):
        timeout = _TIMEOUT.fullmatch(option)
        if timeout is not None and (timeout[3] or timeout[2] == "0"):
            timeouts[timeout[1]] = int(timeout[2]) * _MILLISECONDS[timeout[3] or "ms"]
        else:
            flags.add(option)
    if not flags <= _FLAGS or flags == {"repeatable"}:
        line = text.count("\n", 0, match.start(1)) + 1
        raise BadMigrationFiles(f"{path}:{line}: invalid options; -- vsyncd: takes {_VALID_OPTIONS}")
    transaction = "no transaction" not in flags
    return Options(
        transaction=transaction,
        repeatable="repeatable" in flags,
        lock_timeout=timeouts.get("lock_timeout"),
        # Building a large index takes long and blocks nobody.
        statement_timeout=timeouts.get("statement_timeout", STATEMENT_TIMEOUT_MS if transaction else 0),
    )


def _check_statement(statement: Statement, path: Path, options: Options) -> None:
    line = statement.line
    if (command := statement.psql_command()) is not None:
        name, line = command
        problem = f"{name} is a psql command, not SQL"
    elif statement.copies_from_client:
        problem = "COPY FROM STDIN and COPY TO STDOUT need a client that transfers the rows: use INSERT"
    elif _ENDS_TRANSACTION.match(statement.code):
        problem = f"{statement.words} would end the migration's transaction"
        if not options.transaction:
            problem = (
                f"{statement.words} is not possible in a file with the option no transaction: each statement runs alone"
            )
    elif _SAVEPOINT.match(statement.code) and not options.transaction:
        problem = f"{statement.words} needs a transaction, but the file has the option no transaction"
    elif statement.needs_no_transaction and options.transaction:
        problem = (
            f"{statement.words} cannot run in a transaction: start the file with the line -- vsyncd: no transaction"
        )
    else:
        return
    raise BadMigrationFiles(f"{path}:{line}: {problem}")


def _check_file(text: str, path: Path) -> None:
    if (match := _OTHER_TOOL.search(text)) is not None:
        line = text.count("\n", 0, match.start()) + 1
        raise BadMigrationFiles(
            f"{path}:{line}: {match[0]!r} is a marker of another migration tool that keeps both directions in one"
            " file: split it into an up file and a down file"
        )
