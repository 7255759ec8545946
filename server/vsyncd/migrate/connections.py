"""The engine's connections, and psycopg's errors in one line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psycopg

from vsyncd.migrate.errors import DatabaseRefused, DatabaseUnreachable

# DISCARD ALL, but for advisory locks, and as one transaction: behind a pooler all of it has to come to one server.
# RESET goes back to what the connection string and the role's own settings say. The role comes after SESSION
# AUTHORIZATION, which sets it to none.
_RENEW = """
CLOSE ALL; RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL; SET client_encoding = 'utf8';
DEALLOCATE ALL; UNLISTEN *; DISCARD TEMP; DISCARD SEQUENCES"""

# SQLSTATE classes and codes of a server that is not there yet, or not any more: 08 connection, 53300 too many
# connections, 57P01 to 57P03 shutting down, crashed, starting up. Where libpq got no answer at all there is none.
_UNREACHABLE = ("08", "53300", "57P01", "57P02", "57P03")


@contextlib.contextmanager
def connected(conninfo: str) -> Iterator[psycopg.Connection]:
    """A connection in autocommit mode, closed at the end. What psycopg raises comes out as DatabaseRefused
    or its DatabaseUnreachable."""
    try:
        # Files are sent as UTF-8, and each statement is sent once: there is nothing to prepare.
        connection = psycopg.connect(conninfo, autocommit=True, client_encoding="utf8", prepare_threshold=None)
        with contextlib.closing(connection):
            _prepare_for_long_work(connection)
            yield connection
    except psycopg.Error as error:
        leaf = DatabaseUnreachable if _is_unreachable(error) else DatabaseRefused
        raise leaf(in_one_line(error)) from error


def renew(connection: psycopg.Connection) -> None:
    """Make the session what it was at its beginning: settings, role, temporary tables, and what else SQL leaves."""
    connection.execute(_RENEW)
    _prepare_for_long_work(connection)


def in_one_line(error: psycopg.Error) -> str:
    """What PostgreSQL said, with its code and its hint; without the detail, which may quote rows."""
    if error.diag.message_primary is None:
        return "; ".join(line.strip() for line in str(error).splitlines() if line.strip()) or type(error).__name__
    said = f"{error.diag.message_primary} ({error.sqlstate})"
    if error.diag.context:
        said += f", {error.diag.context.splitlines()[0]}"
    return f"{said}. {error.diag.message_hint}" if error.diag.message_hint else said


def _is_unreachable(error: psycopg.Error) -> bool:
    if error.sqlstate is None:
        return isinstance(error, psycopg.OperationalError)
    return error.sqlstate.startswith(_UNREACHABLE)


def _prepare_for_long_work(connection: psycopg.Connection) -> None:
    # A session may wait long for its turn, and one that holds the lock is idle meanwhile.
    connection.execute("SET idle_session_timeout = 0")
    if connection.info.server_version >= 170000:
        connection.execute("SET transaction_timeout = 0")
    # A statement whose client was killed ends soon, and its locks with it. Servers on Windows cannot tell.
    with contextlib.suppress(psycopg.errors.InvalidParameterValue):
        connection.execute("SET client_connection_check_interval = '2s'")
