"""Dropping a partition beside readers and writers, as the owner of the tables.

The service's own role cannot: it could then do away with history. DETACH ... CONCURRENTLY waits for those who use the
table, and keeps nobody waiting meanwhile; it cannot run in a transaction, and when it is cut off in the middle it is
finished the next time. A comment on the partition says that it is to go (partitions.py), should the process be killed
between its detachment and the end: what a person has detached to keep it has none. Hence it goes again when the
detachment fails, and by itself it is not enough: what it says must be past its retention still.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection, sql

from vsyncd.jobs.maintenance.partitions import PARENTS, Partition, mark_of

# For the transactions to end that were using the table when the detachment began.
_WAIT: Final = "10min"
# For a lock that others would queue behind.
_SHORT: Final = "2s"

_IS_OWNER: Final = """
SELECT coalesce(bool_and(pg_has_role(relowner, 'USAGE')), false) FROM pg_catalog.pg_class
WHERE relnamespace = to_regnamespace(%s) AND relname = ANY (%s)"""


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
        """Drop these. One that cannot go now does not keep the next from it."""
        await self._connection.execute("SELECT set_config('statement_timeout', %s, false)", [_WAIT])
        names: list[str] = []
        failed: dict[str, str] = {}
        for partition in partitions:
            try:
                if not partition.is_detached:
                    await self._detach(partition)
                await self._set_lock_timeout(_SHORT)
                await self._connection.execute(sql.SQL("DROP TABLE {}").format(self._table(partition.name)))
            except psycopg.Error as error:
                failed[partition.name] = _reason(error)
            else:
                names.append(partition.name)
        return Dropped(sorted(names), failed)

    async def _detach(self, partition: Partition) -> None:
        await self._comment(partition, mark_of(partition))
        # Its waits are for those who are there already; who comes goes on.
        await self._set_lock_timeout("0")
        how = sql.SQL("FINALIZE" if partition.is_detaching else "CONCURRENTLY")
        detach = sql.SQL("ALTER TABLE {} DETACH PARTITION {} {}")
        try:
            await self._connection.execute(
                detach.format(self._table(partition.parent), self._table(partition.name), how)
            )
        except psycopg.Error:
            with contextlib.suppress(psycopg.Error):  # what is told of is why it was not detached
                await self._comment(partition, None)
            raise

    async def _comment(self, partition: Partition, text: str | None) -> None:
        await self._set_lock_timeout(_SHORT)
        comment = sql.SQL("COMMENT ON TABLE {} IS {}").format(self._table(partition.name), sql.Literal(text))
        await self._connection.execute(comment)

    async def _set_lock_timeout(self, time: str) -> None:
        await self._connection.execute("SELECT set_config('lock_timeout', %s, false)", [time])

    def _table(self, name: str) -> sql.Identifier:
        return sql.Identifier(self._schema, name)

    def _quoted(self) -> str:
        return sql.Identifier(self._schema).as_string()


def _reason(error: psycopg.Error) -> str:
    return f"{type(error).__name__} ({error.sqlstate})" if error.sqlstate else type(error).__name__
