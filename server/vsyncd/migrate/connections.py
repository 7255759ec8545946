"""Connections, the migration lock, and one-line error messages."""

import contextlib
import random
import re
import time
from collections.abc import Iterator, Mapping

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from vsyncd.migrate.errors import DatabaseRefused, DatabaseUnreachable, MigrationLockTimeout
from vsyncd.session_settings import NO_TIMEOUTS, UnfitDatabase, connect, set_up

# DISCARD ALL without advisory locks, and as one transaction, which a pooler sends to one server. RESET restores the
# values of the connection string and the role. RESET ROLE follows SESSION AUTHORIZATION, which sets the role to none.
_RESET = b"""
CLOSE ALL; RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL;
DEALLOCATE ALL; UNLISTEN *; DISCARD TEMP; DISCARD SEQUENCES; """

# In startup options, where a backslash escapes a space.
_SEARCH_PATH = re.compile(r"(?:-c\s*|--)search[_-]path=((?:\\.|\S)*)")

# SQLSTATEs of an unavailable server: 08 connection, 53300 too many connections, 57P01 to 57P03 shutting down, crashed,
# starting up. Without a response from the server there is no SQLSTATE.
_UNREACHABLE = ("08", "53300", "57P01", "57P02", "57P03")

# Without parameters psycopg uses the simple protocol: a portal of the extended protocol would keep its snapshot.
_TRY_LOCK = sql.SQL("SELECT pg_try_advisory_xact_lock(hashtextextended({}, 0))")


@contextlib.contextmanager
def connected(conninfo: str) -> Iterator[psycopg.Connection]:
    """A connection in autocommit mode. Raises DatabaseRefused or DatabaseUnreachable instead of psycopg's errors."""
    try:
        # Each statement is sent only once.
        connection = connect(conninfo, settings=_settings(conninfo), prepare_threshold=None)
        with contextlib.closing(connection):
            _detect_lost_clients(connection)
            yield connection
    except psycopg.Error as error:
        kind = DatabaseUnreachable if _is_unreachable(error) else DatabaseRefused
        raise kind(in_one_line(error)) from error


@contextlib.contextmanager
def migration_lock(conninfo: str, *, schema: str, timeout: float) -> Iterator[None]:
    """Hold the lock of a schema, on a separate connection. `timeout`: the maximum wait in seconds.

    It is the advisory lock of an open transaction without a snapshot: a pooler reserves a server for the transaction,
    and the lock ends with the connection. A session lock could remain on a pooler's server.

    Raises MigrationLockTimeout, DatabaseRefused.
    """
    attempt = _TRY_LOCK.format(sql.Literal(f"vsyncd migrate {schema}"))
    with connected(conninfo) as connection:
        deadline = time.monotonic() + timeout
        # Polls: a session that waits in pg_advisory_lock has a snapshot, for which CREATE INDEX CONCURRENTLY waits.
        while True:
            with connection.transaction():
                connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
                if connection.execute(attempt).fetchone() == (True,):
                    yield
                    return
            if time.monotonic() >= deadline:
                raise MigrationLockTimeout(
                    f"another process has held the migration lock of the schema {schema} for {timeout:g} s"
                )
            time.sleep(random.uniform(0.05, 0.2))  # noqa: S311 - spreads the attempts of several processes


def reset_session(connection: psycopg.Connection, conninfo: str) -> None:
    """Reset everything that a file may have changed: settings, role, temporary tables, cursors, ..."""
    set_up(connection, _settings(conninfo), before=_RESET)
    _detect_lost_clients(connection)


def in_one_line(error: psycopg.Error) -> str:
    """Returns PostgreSQL's message with SQLSTATE and hint, but without the detail, which may quote rows."""
    if error.diag.message_primary is None:
        return "; ".join(line.strip() for line in str(error).splitlines() if line.strip()) or type(error).__name__
    message = f"{error.diag.message_primary} ({error.sqlstate})"
    if error.diag.context:
        message += f", {error.diag.context.splitlines()[0]}"
    return f"{message}. {error.diag.message_hint}" if error.diag.message_hint else message


def _is_unreachable(error: psycopg.Error) -> bool:
    if error.sqlstate is None:
        return isinstance(error, psycopg.OperationalError) and not isinstance(error, UnfitDatabase)
    return error.sqlstate.startswith(_UNREACHABLE)


def _settings(conninfo: str) -> Mapping[str, str]:
    """Returns the engine's session settings. They keep a search_path in the connection string's options."""
    given = _SEARCH_PATH.findall(str(conninfo_to_dict(conninfo).get("options") or ""))
    search_path = {"search_path": re.sub(r"\\(.)", r"\1", given[-1])} if given else {}
    return {**NO_TIMEOUTS, **search_path}


def _detect_lost_clients(connection: psycopg.Connection) -> None:
    # The server ends the statement of a killed client, and releases its locks. Not supported on Windows.
    with contextlib.suppress(psycopg.errors.InvalidParameterValue):
        connection.execute("SET client_connection_check_interval = '2s'")
