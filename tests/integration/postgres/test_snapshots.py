"""Snapshots: however a read ends, its cursor is closed and its statement ends."""

import asyncio
from typing import Any

import psycopg
import pytest
from vsyncd.app import Application
from vsyncd.postgres.queries import Query
from vsyncd.postgres.snapshots import Snapshot, SnapshotReader

from tests.harness.cids import rows, until
from tests.harness.clusters import Database

_ROWS = Query("rows", b"SELECT generate_series(1, 3)")
# DECLARE with its description, three FETCH and one CLOSE.
_WAITS = 5


class _Cursors:
    """Records the server-side cursors that a test opens."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened: list[psycopg.AsyncServerCursor[Any]] = []
        execute = psycopg.AsyncServerCursor.execute

        async def opening(cursor: Any, *args: Any, **kwargs: Any) -> Any:
            self.opened.append(cursor)
            return await execute(cursor, *args, **kwargs)

        monkeypatch.setattr(psycopg.AsyncServerCursor, "execute", opening)

    def all_closed(self) -> bool:
        return bool(self.opened) and all(cursor.closed for cursor in self.opened)


@pytest.fixture
def snapshots(application: Application) -> SnapshotReader:
    """Reads of one kind."""
    return SnapshotReader(application.database, "exports", max_concurrent=1, max_duration=60)


@pytest.mark.parametrize("cancelled_at", range(1, _WAITS + 1))
async def test_a_cancellation_at_any_moment_closes_the_cursor(
    snapshots: SnapshotReader, monkeypatch: pytest.MonkeyPatch, cancelled_at: int
) -> None:
    cursors = _Cursors(monkeypatch)

    async def consume(snapshot: Snapshot) -> None:
        waits = 0
        wait = snapshot.connection.wait

        async def cancelled(*args: Any, **kwargs: Any) -> Any:
            nonlocal waits
            waits += 1
            if waits == cancelled_at:
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
            return await wait(*args, **kwargs)

        monkeypatch.setattr(snapshot.connection, "wait", cancelled)
        async for _ in snapshot.stream(_ROWS, None, block_rows=2):
            pass
        raise AssertionError(f"the stream ended after {waits} waits")

    with pytest.raises(asyncio.CancelledError):
        await snapshots.read("export", consume)
    assert cursors.all_closed()


async def test_the_end_of_a_stream_closes_the_cursor_and_keeps_the_connection(
    snapshots: SnapshotReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    cursors = _Cursors(monkeypatch)

    async def consume(snapshot: Snapshot) -> list[int]:
        found = [row[0] async for block in snapshot.stream(_ROWS, None, block_rows=2) for row in block]
        assert cursors.all_closed()
        assert await snapshot.one(Query("one", b"SELECT 1")) == (1,)
        return found

    assert await snapshots.read("export", consume) == [1, 2, 3]


async def test_a_call_that_is_cancelled_twice_cancels_its_statement(
    snapshots: SnapshotReader, database: Database
) -> None:
    """As gRPC does. The second cancellation must not keep the request to cancel from the server."""
    running = "SELECT FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)' AND state = 'active'"
    reading = asyncio.create_task(
        snapshots.read("export", lambda snapshot: snapshot.all(Query("sleep", b"SELECT pg_sleep(600)")))
    )
    await until(lambda: len(rows(database, running)) == 1)
    reading.cancel()
    await asyncio.sleep(0)  # it handles the first cancellation
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await until(lambda: rows(database, running) == [])
