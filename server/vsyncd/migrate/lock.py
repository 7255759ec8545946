"""One at a time, over all machines: an advisory lock of the database."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator

from vsyncd.migrate.connections import connected
from vsyncd.migrate.errors import LockNotFree

_TRY = "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))"


@contextlib.contextmanager
def migration_lock(conninfo: str, *, schema: str, timeout: float) -> Iterator[None]:
    """Hold the lock of a schema, on a session of its own. `timeout`: seconds to wait for it.

    It keeps others waiting; that a version is applied once is the version table's own lock's doing, which holds
    also where a pooler gives each transaction another session. Raises LockNotFree and DatabaseRefused.
    """
    name = f"vsyncd migrate {schema}"
    with connected(conninfo) as connection:
        give_up = time.monotonic() + timeout
        # Polled: a session that blocks in pg_advisory_lock holds a snapshot, which CREATE INDEX CONCURRENTLY waits for.
        while not _is_true(connection.execute(_TRY, [name]).fetchone()):
            if time.monotonic() >= give_up:
                raise LockNotFree(f"another process has been migrating the schema {schema} for {timeout:g} s")
            time.sleep(random.uniform(0.05, 0.2))  # noqa: S311 - only keeps those who wait from trying in step
        yield


def _is_true(row: tuple[object, ...] | None) -> bool:
    return row == (True,)
