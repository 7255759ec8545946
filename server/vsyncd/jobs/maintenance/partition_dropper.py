"""Drops partitions as the owner of the tables, while others read and write.

The service's role cannot drop a partition, because it could then delete history. DETACH ... CONCURRENTLY waits for the
transactions that use the table and blocks nobody. It cannot run in a transaction, and the next run completes it after
an interruption.

A comment on the partition marks it before it is detached (see drop_mark), so that the next run finds it if the process
is killed between DETACH and DROP. A table that a person has detached in order to keep it has no mark. If detaching
fails, the mark is removed. A marked table is dropped only if it is still past its retention.
"""

import contextlib
from collections.abc import Sequence
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection, sql

from vsyncd.jobs.maintenance.partitions import Partition, drop_mark

# DETACH CONCURRENTLY waits for the end of the transactions that use the table.
_STATEMENT_TIMEOUT: Final = "10min"
# For a lock that blocks others while this session waits for it.
_LOCK_TIMEOUT: Final = "2s"

_IS_OWNER: Final = """
SELECT coalesce(bool_and(pg_has_role(relowner, 'USAGE')), false) FROM pg_catalog.pg_class
WHERE relnamespace = to_regnamespace(%s) AND relname = ANY (%s)"""


class PartitionDropper:
    """Drops partitions over one connection in autocommit."""

    def __init__(self, connection: AsyncConnection[Any], *, schema: str) -> None:
        self._connection = connection
        self._schema = schema

    async def may_drop(self, partitions: Sequence[Partition]) -> bool:
        """Whether this role owns the tables of the partitions."""
        parents = sorted({partition.parent for partition in partitions})
        schema = sql.Identifier(self._schema).as_string()
        cursor = await self._connection.execute(_IS_OWNER, [schema, parents])
        return await cursor.fetchone() == (True,)

    async def drop(self, partitions: Sequence[Partition]) -> tuple[list[str], dict[str, str]]:
        """Drops these partitions. If one cannot be dropped, the others still are.

        Returns the dropped ones, and by name why others were not dropped (exception class and SQLSTATE).
        """
        await self._connection.execute("SELECT set_config('statement_timeout', %s, false)", [_STATEMENT_TIMEOUT])
        names: list[str] = []
        failed: dict[str, str] = {}
        for partition in partitions:
            try:
                if not partition.is_detached:
                    await self._detach(partition)
                await self._set_lock_timeout(_LOCK_TIMEOUT)
                await self._connection.execute(sql.SQL("DROP TABLE {}").format(self._table(partition.name)))
            except psycopg.Error as error:
                state = f" ({error.sqlstate})" if error.sqlstate else ""
                failed[partition.name] = f"{type(error).__name__}{state}"
            else:
                names.append(partition.name)
        return sorted(names), failed

    async def _detach(self, partition: Partition) -> None:
        await self._comment(partition, drop_mark(partition))
        # No lock timeout: DETACH CONCURRENTLY waits without blocking anyone.
        await self._set_lock_timeout("0")
        how = sql.SQL("FINALIZE" if partition.is_detaching else "CONCURRENTLY")
        detach = sql.SQL("ALTER TABLE {} DETACH PARTITION {} {}")
        try:
            await self._connection.execute(
                detach.format(self._table(partition.parent), self._table(partition.name), how)
            )
        except psycopg.Error:
            with contextlib.suppress(psycopg.Error):  # the error to report is that of DETACH
                await self._comment(partition, None)
            raise

    async def _comment(self, partition: Partition, text: str | None) -> None:
        await self._set_lock_timeout(_LOCK_TIMEOUT)
        comment = sql.SQL("COMMENT ON TABLE {} IS {}").format(self._table(partition.name), sql.Literal(text))
        await self._connection.execute(comment)

    async def _set_lock_timeout(self, time: str) -> None:
        await self._connection.execute("SELECT set_config('lock_timeout', %s, false)", [time])

    def _table(self, name: str) -> sql.Identifier:
        return sql.Identifier(self._schema, name)
