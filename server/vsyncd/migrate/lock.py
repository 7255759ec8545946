"""One at a time, over all machines: an advisory lock of the database."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator

from psycopg import sql

from vsyncd.migrate.connections import connected
from vsyncd.migrate.errors import LockNotFree

# Without parameters, which brings it by the simple protocol: a portal of the extended one would keep its snapshot.
_TRY = sql.SQL("SELECT pg_try_advisory_xact_lock(hashtextextended({}, 0))")


@contextlib.contextmanager
def migration_lock(conninfo: str, *, schema: str, timeout: float) -> Iterator[None]:
    """Hold the lock of a schema, on a session of its own. `timeout`: seconds to wait for it.

    The lock is an open transaction's, which has no snapshot and so is in nobody's way: a pooler keeps a server for it,
    and it ends with the connection. A session's own lock would stay behind on the pooler's server. Raises LockNotFree
    and DatabaseRefused.
    """
    attempt = _TRY.format(sql.Literal(f"vsyncd migrate {schema}"))
    with connected(conninfo) as connection:
        give_up = time.monotonic() + timeout
        # Polled: a session that blocks in pg_advisory_lock has a snapshot, which CREATE INDEX CONCURRENTLY waits for.
        while True:
            with connection.transaction():
                connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
                if connection.execute(attempt).fetchone() == (True,):
                    yield
                    return
            if time.monotonic() >= give_up:
                raise LockNotFree(f"another process has been migrating the schema {schema} for {timeout:g} s")
            time.sleep(random.uniform(0.05, 0.2))  # noqa: S311 - only keeps those who wait from trying in step
