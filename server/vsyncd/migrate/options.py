"""What a file says of itself in its first comment.

    -- vsyncd: no transaction, repeatable, lock_timeout = 500ms, statement_timeout = 2h

`no transaction`: each statement is executed by itself (CREATE INDEX CONCURRENTLY wants that). `repeatable`, for such a
file: each can be executed again from its beginning, however far it came. The timeouts are for each statement; 0 is
none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from vsyncd.migrate.errors import BadMigrationFiles

# Milliseconds. While a migration waits for a lock, everyone who comes after it waits too: it gives up soon, lets them
# pass, and tries again. A statement that runs for an hour was meant to run outside a transaction, or in steps.
LOCK_TIMEOUT_MS = 1_000
STATEMENT_TIMEOUT_MS = 3_600_000

# In any line of the comment that the file begins with.
_FIRST_COMMENT = re.compile(r"(?:\s*--(?![ \t]*vsyncd:)[^\n]*\n)*\s*--[ \t]*vsyncd:[ \t]*([^\n]*)")
_TIMEOUT = re.compile(r"(lock_timeout|statement_timeout)\s*=\s*(\d{1,7})\s*(ms|s|min|h)?")
_WORDS = {"no transaction", "repeatable"}
_MILLISECONDS = {"ms": 1, "s": 1_000, "min": 60_000, "h": 3_600_000}
_TAKES = (
    "no transaction, lock_timeout = TIME, statement_timeout = TIME (such as 500ms, 5s, 10min, 2h);"
    " and repeatable, beside no transaction"
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a file runs. Timeouts in milliseconds, 0: none; `lock_timeout` None: the usual one."""

    transaction: bool = True
    repeatable: bool = False
    lock_timeout: int | None = None
    statement_timeout: int = STATEMENT_TIMEOUT_MS


def read_options(text: str, path: Path) -> Options:
    """The options in the first comment of a file. Raises BadMigrationFiles for one that there is not."""
    match = _FIRST_COMMENT.match(text)
    if match is None:
        return Options()
    words: set[str] = set()
    timeouts: dict[str, int] = {}
    for option in (option.strip() for option in match[1].split(",")):
        timeout = _TIMEOUT.fullmatch(option)
        if timeout is not None and (timeout[3] or timeout[2] == "0"):
            timeouts[timeout[1]] = int(timeout[2]) * _MILLISECONDS[timeout[3] or "ms"]
        else:
            words.add(option)
    if not words <= _WORDS or words == {"repeatable"}:
        line = text.count("\n", 0, match.start(1)) + 1
        raise BadMigrationFiles(f"{path}:{line}: -- vsyncd: takes {_TAKES}")
    transaction = "no transaction" not in words
    return Options(
        transaction=transaction,
        repeatable="repeatable" in words,
        lock_timeout=timeouts.get("lock_timeout"),
        # An index of a hundred million rows takes its time, and nobody waits for it.
        statement_timeout=timeouts.get("statement_timeout", STATEMENT_TIMEOUT_MS if transaction else 0),
    )
