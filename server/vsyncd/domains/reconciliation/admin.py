"""What an operator does about kept VSyncs: verify them all by a full scan, and rebuild them where they are wrong.

Without a pool and without a limit of time: on a hundred million CIDs either takes minutes. Nobody waits for it.
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
    """One group, by a full scan and as it is kept. `agrees`: also in its counts by status."""

    ispb: str
    key_type: int
    vsync: bytes
    size: int
    kept_vsync: bytes
    kept_size: int
    agrees: bool


class RecomputeReport(NamedTuple):
    """Every group of one snapshot, the time of it, and the server that it is of: `primary`, or a replica's address."""

    groups: list[RecomputedVsync]
    server: str
    at: datetime

    @property
    def agrees(self) -> bool:
        """Whether all of it is as it is kept."""
        return all(group.agrees for group in self.groups)


def verify(settings: Settings) -> RecomputeReport:
    """Every group, of one snapshot; on the first replica that can do it, when there is one. Raises ServiceError."""
    for replica in settings.replica_hosts:
        try:
            return _verify(settings, replica_conninfo(settings, replica), f"replica {replica}")
        except ServiceError as failure:
            if not another_server_may_answer(failure):
                raise
    return _verify(settings, service_conninfo(settings), "primary")


def rebuild(settings: Settings) -> int:
    """Repair what is wrong, as the role that migrates; how many groups that were. Raises ServiceError."""
    query = queries("vsyncd.domains.reconciliation", settings.db_schema)["rebuild"]
    # The snapshot has to be one of behind the lock that the function takes.
    with _transaction(owner_conninfo(settings), b"BEGIN ISOLATION LEVEL READ COMMITTED") as cursor:
        [row] = cursor.execute(query.sql).fetchall()
    return int(row[0])


def _verify(settings: Settings, conninfo: str, server: str) -> RecomputeReport:
    named = queries("vsyncd.domains.reconciliation", settings.db_schema)
    with _transaction(conninfo, named["begin_snapshot"].sql) as cursor:
        [row] = cursor.execute(named["snapshot_time"].sql, {"limit": "0"}).fetchall()
        groups = [RecomputedVsync(*each) for each in cursor.execute(named["verify"].sql).fetchall()]
    return RecomputeReport(groups, server, row[0])


@contextmanager
def _transaction(conninfo: str, begin: bytes) -> Iterator[psycopg.Cursor[TupleRow]]:
    """Without a limit of time in the transaction alone: a pooler would hand a setting of the session on."""
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
