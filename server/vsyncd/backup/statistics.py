"""What the planner knows of a database that was just restored: without it the first queries would go astray."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from queue import Empty, SimpleQueue
from typing import Final

import psycopg
from psycopg import sql

from vsyncd.backup.content_summary import Connection, connected
from vsyncd.backup.subprocesses import Stop

_TICK_SECONDS: Final = 0.25
# The largest first, each with its partitions, which come with it. The catalog has what the template's had.
_TABLES: Final = """
    SELECT n.nspname, c.relname
    FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'm') AND NOT c.relispartition
      AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
    ORDER BY (SELECT sum(pg_relation_size(part)) FROM (
        SELECT c.oid UNION SELECT relid FROM pg_partition_tree(c.oid)) AS parts (part)) DESC"""


def analyze(conninfo: str, *, jobs: int, stop: Stop) -> None:
    """Gather the statistics of every table, of `jobs` of them at once. Raises DatabaseFailed, Interrupted; what the
    others were at is cancelled then."""
    with connected(conninfo) as connection:
        tables = connection.execute(_TABLES).fetchall()
    gathering = _Gathering(conninfo, [sql.SQL("ANALYZE {}").format(sql.Identifier(*name)) for name in tables])
    with ThreadPoolExecutor(jobs, thread_name_prefix="backup statistics") as threads:
        working = [threads.submit(gathering.work) for _ in range(min(jobs, len(tables)))]
        try:
            while wait(working, timeout=_TICK_SECONDS, return_when=FIRST_EXCEPTION).not_done:
                stop.check()
                for each in working:
                    if each.done():
                        each.result()
            for each in working:
                each.result()
        finally:
            gathering.end()
            while wait(working, timeout=_TICK_SECONDS).not_done:
                gathering.end()  # one may have begun its statement just then


class _Gathering:
    """Executes statements in several threads."""

    def __init__(self, conninfo: str, statements: Iterable[sql.Composed]) -> None:
        self._conninfo = conninfo
        self._waiting: SimpleQueue[sql.Composed] = SimpleQueue()
        for statement in statements:
            self._waiting.put(statement)
        self._connections: list[Connection] = []
        self._ended = Stop()

    def work(self) -> None:
        """One statement after another. Raises DatabaseFailed, Interrupted."""
        with connected(self._conninfo) as connection:
            self._connections.append(connection)
            while True:
                self._ended.check()
                try:
                    statement = self._waiting.get_nowait()
                except Empty:
                    return
                connection.execute(statement)

    def end(self) -> None:
        """Who still works need not go on."""
        self._ended.ask()
        for connection in list(self._connections):
            with contextlib.suppress(psycopg.Error):  # it is closed
                connection.cancel_safe()
