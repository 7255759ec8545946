"""Verifies the kept VSyncs of all groups by a full scan, and rebuilds wrong ones, for operators' commands.

The statements have no timeout and use a connection of their own: for 100 million CIDs each takes minutes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import NamedTuple

import psycopg
from psycopg.rows import TupleRow

from vsyncd.config import Settings
from vsyncd.config.connections import owner_conninfo, replica_conninfo, service_conninfo
from vsyncd.core.errors import ServiceError
from vsyncd.postgres.database import another_server_may_answer
from vsyncd.postgres.error_mapping import service_error
from vsyncd.postgres.queries import queries
from vsyncd.session_settings import connect


class RecomputedVsync(NamedTuple):
    """The VSync of one group by a full scan, and the kept one. `agrees` also covers the counts by status."""

    ispb: str
    key_type: int
    vsync: bytes
    size: int
    kept_vsync: bytes
    kept_size: int
    agrees: bool


class RecomputeReport(NamedTuple):
    """All groups in one snapshot, its time, and its server: "primary" or "replica" with the address."""

    groups: list[RecomputedVsync]
    server: str
    at: datetime

    @property
    def agrees(self) -> bool:
        """Whether all groups agree."""
        return all(group.agrees for group in self.groups)


def verify(settings: Settings) -> RecomputeReport:
    """Verifies all groups on the first replica that is available, otherwise on the primary. Raises ServiceError."""
    for replica in settings.replica_hosts:
        try:
            return _verify(settings, replica_conninfo(settings, replica), f"replica {replica}")
        except ServiceError as failure:
            if not another_server_may_answer(failure):
                raise
    return _verify(settings, service_conninfo(settings), "primary")


def rebuild(settings: Settings) -> int:
    """Rebuilds the wrong VSyncs as the owner role. Returns the number of rebuilt groups. Raises ServiceError."""
    query = queries("vsyncd.domains.reconciliation", settings.db_schema)["rebuild"]
    # READ COMMITTED: the function must see what was committed before it acquired its lock.
    with _transaction(owner_conninfo(settings), b"BEGIN ISOLATION LEVEL READ COMMITTED") as cursor:
        [row] = cursor.execute(query.sql).fetchall()
    return int(row[0])


def _verify(settings: Settings, conninfo: str, server: str) -> RecomputeReport:
    query = queries("vsyncd.domains.reconciliation", settings.db_schema)["verify"]
    with _transaction(conninfo, b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY") as cursor:
        [row] = cursor.execute(b"SELECT now()").fetchall()
        groups = [RecomputedVsync(*each) for each in cursor.execute(query.sql).fetchall()]
    return RecomputeReport(groups, server, row[0])


@contextmanager
def _transaction(conninfo: str, begin: bytes) -> Iterator[psycopg.Cursor[TupleRow]]:
    """Opens a transaction without timeouts. A pooler would pass settings of the session to other clients."""
    try:
        with (
            connect(conninfo, application_name="vsyncd vsync") as connection,
            connection.cursor(binary=True) as cursor,
        ):
            cursor.execute(begin)
            cursor.execute(b"SET LOCAL statement_timeout = 0")
            yield cursor
            cursor.execute(b"COMMIT")
    except psycopg.Error as error:
        raise service_error(error) from error
