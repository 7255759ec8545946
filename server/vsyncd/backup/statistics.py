"""What the planner knows of a database that was just restored: without it the first queries would go astray."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import Final

from psycopg import sql

from vsyncd.backup.census import connected
from vsyncd.backup.processes import Stop

# The largest first, each with its partitions, which come with it. The catalog has what the template's had.
_TABLES: Final = """
    SELECT n.nspname, c.relname
    FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'm') AND NOT c.relispartition
      AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'
    ORDER BY (SELECT sum(pg_relation_size(part)) FROM (
        SELECT c.oid UNION SELECT relid FROM pg_partition_tree(c.oid)) AS parts (part)) DESC"""


def analyze(conninfo: str, *, jobs: int, stop: Stop) -> None:
    """Gather the statistics of every table, of `jobs` of them at once. Raises DatabaseFailed, Interrupted."""
    waiting: SimpleQueue[sql.Composed] = SimpleQueue()
    with connected(conninfo) as connection:
        for name in connection.execute(_TABLES).fetchall():
            waiting.put(sql.SQL("ANALYZE {}").format(sql.Identifier(*name)))

    def work() -> None:
        with connected(conninfo) as connection:
            while True:
                stop.check()
                try:
                    statement = waiting.get_nowait()
                except Empty:
                    return
                connection.execute(statement)

    with ThreadPoolExecutor(jobs, thread_name_prefix="backup statistics") as threads:
        for working in [threads.submit(work) for _ in range(min(jobs, waiting.qsize()))]:
            working.result()
