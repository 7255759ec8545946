"""Dropping a partition beside readers and writers, as the owner of the tables.

The service's own role cannot: it could then do away with history. DETACH ... CONCURRENTLY waits for those who use the
table, and keeps nobody waiting meanwhile; it cannot run in a transaction, and when it is cut off in the middle it is
finished the next time. A comment on the partition says that it is to go, should the process be killed between its
detachment and the end: what a person has detached to keep it has none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection, sql

from vsyncd.maintenance.partitions import PARENTS, Partition

_MARK: Final = "vsyncd: past its retention, to be dropped"
# For the transactions to end that were using the table when the detachment began.
_WAIT: Final = "10min"
# For a lock that others would queue behind.
_SHORT: Final = "2s"

_IS_OWNER: Final = """
SELECT coalesce(bool_and(pg_has_role(relowner, 'USAGE')), false) FROM pg_catalog.pg_class
WHERE relnamespace = to_regnamespace(%s) AND relname = ANY (%s)"""
_LEFT_OVER: Final = """
SELECT relname FROM pg_catalog.pg_class WHERE relnamespace = to_regnamespace(%s) AND NOT relispartition
AND pg_catalog.obj_description(oid, 'pg_class') = %s"""


@dataclass(frozen=True, slots=True)
class Dropped:
    """What came of it: the partitions that are gone, and, by name, why others could not go (class and SQLSTATE)."""

    names: Sequence[str]
    failed: dict[str, str]


class PartitionDropper:
    """Drops partitions over one connection in autocommit."""

    def __init__(self, connection: AsyncConnection[Any], *, schema: str) -> None:
        self._connection = connection
        self._schema = schema

    async def may_drop(self) -> bool:
        """Whether this role owns the tables."""
        cursor = await self._connection.execute(_IS_OWNER, [self._quoted(), list(PARENTS)])
        return await cursor.fetchone() == (True,)

    async def drop(self, partitions: Sequence[Partition]) -> Dropped:
        """Drop these, and what an earlier run had detached. One that cannot go now does not keep the next from it."""
        await self._connection.execute("SELECT set_config('statement_timeout', %s, false)", [_WAIT])
        names: list[str] = []
        failed: dict[str, str] = {}
        for partition in partitions:
            try:
                await self._detach(partition)
            except psycopg.Error as error:
                failed[partition.name] = _reason(error)
        cursor = await self._connection.execute(_LEFT_OVER, [self._quoted(), _MARK])
        for (name,) in await cursor.fetchall():
            try:
                await self._set_lock_timeout(_SHORT)
                await self._connection.execute(sql.SQL("DROP TABLE {}").format(self._table(name)))
            except psycopg.Error as error:
                failed[name] = _reason(error)
            else:
                names.append(name)
        return Dropped(sorted(names), failed)

    async def _detach(self, partition: Partition) -> None:
        await self._set_lock_timeout(_SHORT)
        table = self._table(partition.name)
        await self._connection.execute(sql.SQL("COMMENT ON TABLE {} IS {}").format(table, sql.Literal(_MARK)))
        # Its waits are for those who are there already; who comes goes on.
        await self._set_lock_timeout("0")
        how = sql.SQL("FINALIZE" if partition.is_detaching else "CONCURRENTLY")
        detach = sql.SQL("ALTER TABLE {} DETACH PARTITION {} {}")
        await self._connection.execute(detach.format(self._table(partition.parent), table, how))

    async def _set_lock_timeout(self, time: str) -> None:
        await self._connection.execute("SELECT set_config('lock_timeout', %s, false)", [time])

    def _table(self, name: str) -> sql.Identifier:
        return sql.Identifier(self._schema, name)

    def _quoted(self) -> str:
        return sql.Identifier(self._schema).as_string()


def _reason(error: psycopg.Error) -> str:
    return f"{type(error).__name__} ({error.sqlstate})" if error.sqlstate else type(error).__name__
