"""What an operator does about kept VSyncs: verify them all by a full scan, and rebuild them where they are wrong.

Without a pool and without a limit of time: on a hundred million CIDs either takes minutes. Nobody waits for it.
"""

from typing import NamedTuple

import psycopg
from psycopg.rows import TupleRow

from vsyncd.config import Settings
from vsyncd.postgres.failures import failure_of
from vsyncd.postgres.queries import queries


class Verified(NamedTuple):
    """One group, by a full scan and as it is kept. `agrees`: also in its counts by status."""

    ispb: str
    key_type: int
    vsync: bytes
    size: int
    kept_vsync: bytes
    kept_size: int
    agrees: bool


def verify(settings: Settings) -> list[Verified]:
    """Every group, of one snapshot; on the first replica that answers, when there is one. Raises Failure."""
    query = queries("vsyncd.reconciliation", settings.db_schema)["verify"]
    hosts = [(replica,) for replica in settings.replica_hosts]
    for host in hosts:
        try:
            return _verify(settings.database_conninfo(hosts=host), query.sql)
        except psycopg.OperationalError:
            continue  # the next one, and at last the primary
    try:
        return _verify(settings.database_conninfo(), query.sql)
    except psycopg.Error as error:
        raise failure_of(error) from error


def rebuild(settings: Settings) -> int:
    """Repair what is wrong, as the role that migrates; how many groups that were. Raises Failure."""
    query = queries("vsyncd.reconciliation", settings.db_schema)["rebuild"]
    try:
        [row] = _rows(settings.migrate_conninfo(), query.sql)
    except psycopg.Error as error:
        raise failure_of(error) from error
    return int(row[0])


def _verify(conninfo: str, sql: bytes) -> list[Verified]:
    return [Verified(*row) for row in _rows(conninfo, sql)]


def _rows(conninfo: str, sql: bytes) -> list[TupleRow]:
    with psycopg.connect(conninfo, application_name="vsyncd vsync", autocommit=True) as connection:
        connection.execute("SET statement_timeout = 0")
        return connection.cursor(binary=True).execute(sql).fetchall()
