"""The engine's connections, and psycopg's errors in one line."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping

import psycopg
from psycopg.conninfo import conninfo_to_dict

from vsyncd.migrate.errors import DatabaseRefused, DatabaseUnreachable
from vsyncd.session_settings import NO_TIMEOUTS, UnfitDatabase, connect, set_up

# DISCARD ALL, but for advisory locks, and as one transaction: behind a pooler all of it has to come to one server.
# RESET goes back to what the connection string and the role's own settings say. The role comes after SESSION
# AUTHORIZATION, which sets it to none.
_RENEW = b"""
CLOSE ALL; RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL;
DEALLOCATE ALL; UNLISTEN *; DISCARD TEMP; DISCARD SEQUENCES; """

# Among the words of startup options, in which a backslash escapes a space.
_SEARCH_PATH = re.compile(r"(?:-c\s*|--)search[_-]path=((?:\\.|\S)*)")

# SQLSTATE classes and codes of a server that is not there yet, or not any more: 08 connection, 53300 too many
# connections, 57P01 to 57P03 shutting down, crashed, starting up. Where libpq got no answer at all there is none.
_UNREACHABLE = ("08", "53300", "57P01", "57P02", "57P03")


@contextlib.contextmanager
def connected(conninfo: str) -> Iterator[psycopg.Connection]:
    """A connection in autocommit mode, closed at the end. What psycopg raises comes out as DatabaseRefused
    or its DatabaseUnreachable."""
    try:
        # Each statement is sent once: there is nothing to prepare.
        connection = connect(conninfo, settings=_settings(conninfo), prepare_threshold=None)
        with contextlib.closing(connection):
            _notice_lost_clients(connection)
            yield connection
    except psycopg.Error as error:
        leaf = DatabaseUnreachable if _is_unreachable(error) else DatabaseRefused
        raise leaf(in_one_line(error)) from error


def renew(connection: psycopg.Connection, conninfo: str) -> None:
    """Make the session what it was at its beginning: settings, role, temporary tables, and what else SQL leaves."""
    set_up(connection, _settings(conninfo), before=_RENEW)
    _notice_lost_clients(connection)


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
        return isinstance(error, psycopg.OperationalError) and not isinstance(error, UnfitDatabase)
    return error.sqlstate.startswith(_UNREACHABLE)


def _settings(conninfo: str) -> Mapping[str, str]:
    """What the engine sets. A search_path in the connection string's options is for the files, and is left alone."""
    given = _SEARCH_PATH.findall(str(conninfo_to_dict(conninfo).get("options") or ""))
    search_path = {"search_path": re.sub(r"\\(.)", r"\1", given[-1])} if given else {}
    return {**NO_TIMEOUTS, **search_path}


def _notice_lost_clients(connection: psycopg.Connection) -> None:
    # A statement whose client was killed ends soon, and its locks with it. Servers on Windows cannot tell.
    with contextlib.suppress(psycopg.errors.InvalidParameterValue):
        connection.execute("SET client_connection_check_interval = '2s'")
