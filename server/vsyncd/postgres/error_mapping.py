"""Maps errors of PostgreSQL to errors of the service, and connection errors to categories for logs and health. Pure.

The text of an error may contain values, host, user and database names, and is never passed on. The original error is
preserved as the cause.
"""

import re
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

import psycopg
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from vsyncd.core.errors import (
    Aborted,
    FailedPrecondition,
    Internal,
    QueryTimeout,
    ServiceError,
    Unavailable,
    Unknown,
)
from vsyncd.session_settings import UnfitDatabase

TIMEOUT: Final = "timeout"
OTHER: Final = "database error"
AUTHENTICATION: Final = "authentication failed"
NO_DATABASE: Final = "no such database"
TOO_MANY: Final = "too many connections"

# PostgreSQL's manual, appendix A. Two characters match the whole class.
_CATEGORY_BY_SQLSTATE: Final = {
    "28": AUTHENTICATION,
    "3D": NO_DATABASE,
    "42501": "permission denied",
    "53300": TOO_MANY,
    "57014": TIMEOUT,
    "57P01": "connection lost",
    "57P02": "connection lost",
    "57P03": "server is starting up or shutting down",
    "08": "connection lost",
}
# libpq reports no SQLSTATE for a failed connection attempt, only text: its own (fe-connect.c) and the server's, both in
# English. The first match applies.
_CATEGORY_BY_TEXT: Final = (
    ("Connection refused", "connection refused"),
    ("No such file or directory", "connection refused"),  # the Unix socket does not exist
    ("timeout expired", TIMEOUT),
    ("Connection timed out", TIMEOUT),
    ("resolve host", "host not found"),
    ("translate host name", "host not found"),
    ("Name or service not known", "host not found"),
    ("Network is unreachable", "host unreachable"),
    ("No route to host", "host unreachable"),
    ("the database system is", "server is starting up or shutting down"),
    ("too many clients", TOO_MANY),
    ("remaining connection slots", TOO_MANY),
    ("too many connections", TOO_MANY),
    ("authentication failed", AUTHENTICATION),
    ("no password supplied", AUTHENTICATION),
    ("pg_hba.conf", AUTHENTICATION),
    ("role ", AUTHENTICATION),
    ("database ", NO_DATABASE),
    ("certificate", "TLS failure"),
    ("SSL", "TLS failure"),
)


def error_category(error: psycopg.Error) -> str:
    """Returns the category of an error, as text for logs and health reports."""
    if isinstance(error, UnfitDatabase):
        return str(error)
    if isinstance(error, psycopg.errors.ConnectionTimeout):
        return TIMEOUT
    if (state := error.sqlstate) is not None:
        return _CATEGORY_BY_SQLSTATE.get(state) or _CATEGORY_BY_SQLSTATE.get(state[:2]) or OTHER
    text = str(error)
    if "closed the connection" in text or "terminat" in text or "connection is closed" in text:
        return "connection lost"
    return next((category for fragment, category in _CATEGORY_BY_TEXT if fragment in text), "cannot connect")


_RETRY_S: Final = 0.5
# Freeing disk space takes longer.
_FULL_RETRY_S: Final = 2.0
_CONTENTION_RETRY_S: Final = 0.1


# The error to raise for each constraint, by the name of the constraint.
ConstraintErrors: TypeAlias = Mapping[str, Callable[[], ServiceError]]


class DatabaseUnavailable(Unavailable):
    """PostgreSQL is unreachable or refuses connections."""

    def __init__(self) -> None:
        super().__init__("DATABASE_UNAVAILABLE", "The database is unreachable.", retry_after=_RETRY_S)


class ServerSilent(DatabaseUnavailable):
    """The server did not answer a statement. Its outcome is unknown."""


class CircuitOpen(Unavailable):
    """The circuit breaker is open. The next trial is in `seconds`."""

    def __init__(self, seconds: float) -> None:
        super().__init__("CIRCUIT_OPEN", "The database does not answer.", retry_after=seconds)


class PoolExhausted(Unavailable):
    """No connection became free in time."""

    def __init__(self) -> None:
        super().__init__("POOL_EXHAUSTED", "No database connection became free in time.", retry_after=_RETRY_S)


class ReadOnlyMode(Unavailable):
    """Only servers that do not accept writes are available."""

    def __init__(self) -> None:
        super().__init__("READ_ONLY_MODE", "The database does not accept writes.", retry_after=_RETRY_S)


class ClockDiffers(Unavailable):
    """The clock of this machine differs from that of the database by more than 5 minutes."""

    def __init__(self) -> None:
        message = "The clock of this instance differs from that of the database."
        super().__init__("CLOCK_DIFFERS", message, retry_after=_RETRY_S)


class StorageFull(Unavailable):
    """The server's disk is full. Reads that need no disk space still succeed."""

    def __init__(self) -> None:
        super().__init__("STORAGE_FULL", "The database's disk is full.", retry_after=_FULL_RETRY_S)


class Contention(Aborted):
    """Concurrent transactions conflicted, also after retries."""

    def __init__(self) -> None:
        super().__init__("CONTENTION", "Concurrent changes conflicted; try again.", retry_after=_CONTENTION_RETRY_S)


class SchemaOutOfDate(FailedPrecondition):
    """The database lacks migrations that this version needs."""

    def __init__(self) -> None:
        super().__init__("SCHEMA_OUT_OF_DATE", "The database's schema is outdated: apply the migrations.")


class CommitUnknown(Unknown):
    """The connection was lost during a commit, and there is no request_id to resolve the outcome."""

    def __init__(self) -> None:
        super().__init__("COMMIT_UNKNOWN", "The outcome of the change is unknown; send a request_id.")


_BY_SQLSTATE: Final[dict[str, Callable[[], ServiceError]]] = {
    "40001": Contention,  # serialization_failure
    "40P01": Contention,  # deadlock_detected
    "23505": Contention,  # unique_violation: inserts check first, so a concurrent transaction has inserted since
    "55P03": Contention,  # lock_not_available
    "53100": StorageFull,  # disk_full
    "57014": QueryTimeout,  # query_canceled: statement_timeout, or our cancellation at the deadline
    "25P03": DatabaseUnavailable,  # idle_in_transaction_session_timeout
    "25006": ReadOnlyMode,  # read_only_sql_transaction
    "42P01": SchemaOutOfDate,  # undefined_table
    "42703": SchemaOutOfDate,  # undefined_column
    "42883": SchemaOutOfDate,  # undefined_function
    "3F000": SchemaOutOfDate,  # invalid_schema_name
    "57P01": DatabaseUnavailable,  # admin_shutdown
    "57P02": DatabaseUnavailable,  # crash_shutdown
    "57P03": DatabaseUnavailable,  # cannot_connect_now
    "57P04": DatabaseUnavailable,  # database_dropped
    "57P05": DatabaseUnavailable,  # idle_session_timeout
    "VS001": ClockDiffers,  # raised by the trigger audit_logs_time
}
# Connections, authorization, catalogs, resources, the system.
_UNAVAILABLE_CLASSES: Final = ("08", "28", "3D", "53", "58")
# The suffix that make_partition gives to a month (2026_11) or a week (2026_w48).
_PARTITION_SUFFIX: Final = re.compile(r"_\d{4}_w?\d\d(?=_)")
_ROLLED_BACK: Final = frozenset({"40001", "40P01", "23505"})
_RETRYABLE: Final = frozenset({"57P01", "57P02", "57P03"})


class NotReplicated(psycopg.OperationalError):
    """COMMIT returned before the synchronous standby had the transaction, because the wait was interrupted.

    As after a lost connection, it is unknown whether the transaction survives a failover.
    """


def service_error(error: psycopg.Error) -> ServiceError:
    """Returns the service's error for an error of psycopg or its pool."""
    if isinstance(error, PoolTimeout | TooManyRequests):
        return PoolExhausted()
    if isinstance(error, PoolClosed):
        return DatabaseUnavailable()
    state = error.sqlstate
    if state is None:
        # libpq could not connect, or lost the connection. Other errors without a SQLSTATE are a misuse of psycopg.
        return DatabaseUnavailable() if isinstance(error, psycopg.OperationalError) else Internal(sqlstate=None)
    if state in _BY_SQLSTATE:
        return _BY_SQLSTATE[state]()
    return DatabaseUnavailable() if state.startswith(_UNAVAILABLE_CLASSES) else Internal(sqlstate=state)


def constraint_error(error: psycopg.Error, errors: ConstraintErrors) -> ServiceError | None:
    """Returns the error of a repository for a violated constraint, or None if it has declared none.

    A unique index of a partition has the partition's suffix in its name. `errors` has the name of the parent's index.
    """
    name = error.diag.constraint_name if isinstance(error, psycopg.errors.IntegrityError) else None
    if name is None or not errors:
        return None
    build = errors.get(name) or errors.get(_PARTITION_SUFFIX.sub("", name, count=1))
    return None if build is None else build()


def may_retry(error: psycopg.Error, *, committing: bool) -> bool:
    """Whether to execute a failed transaction again: the server has rolled it back, or nothing was sent.

    `committing`: COMMIT was sent, so its outcome may be unknown.
    """
    if error.sqlstate in _ROLLED_BACK:
        return True
    if committing or isinstance(error, PoolTimeout | TooManyRequests | PoolClosed):
        return False
    lost = error.sqlstate is None and isinstance(error, psycopg.OperationalError)
    return lost or error.sqlstate in _RETRYABLE


def lost_while_committing(error: psycopg.Error) -> bool:
    """Whether an error of COMMIT leaves its outcome unknown: the connection or the server was lost."""
    return isinstance(error, psycopg.OperationalError) and (
        error.sqlstate is None or error.sqlstate in {"57P01", "57P02"} or error.sqlstate.startswith("08")
    )
