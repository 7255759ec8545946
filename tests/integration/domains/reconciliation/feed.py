"""Helpers that watch events, and read the stored events from the table."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from vsync.v1 import reconciliation_pb2 as pb

from tests.harness.cids import rows
from tests.harness.clusters import Database
from tests.harness.reconciliation import Reconciliation

EVENTS = """
    SELECT transaction_id::text::bigint AS t, seq, encode(cid, 'hex') AS cid, change FROM vsync.cid_events ORDER BY 1, 2
"""
# Whether all transactions older than the events have ended, in all databases of the server.
VISIBLE = "SELECT bool_and(transaction_id < pg_snapshot_xmin(pg_current_snapshot())) AS all FROM vsync.cid_events"
Seen = tuple[int, int, str, int]


def seen(event: pb.CidEvent) -> Seen:
    """Returns the compared fields of an event."""
    return (event.transaction_id, event.sequence, event.cid, event.change)


def truth(database: Database) -> list[Seen]:
    """Returns all committed events in order."""
    return [(row["t"], row["seq"], row["cid"], row["change"]) for row in rows(database, EVENTS)]


class Watcher:
    """Watches events in the background. After each `cut` messages it cancels its stream and resumes it."""

    def __init__(self, reconciliation: Reconciliation, request: pb.WatchCidEventsRequest, *, cut: int = 0) -> None:
        self._reconciliation = reconciliation
        self._request = request
        self._cut = cut
        self.events: list[Seen] = []
        self.tokens: dict[int, str] = {}
        """Returns the tokens by the number of events before them."""
        self.ready = asyncio.Event()
        self.task = asyncio.create_task(self.run())

    @property
    def token(self) -> str:
        """The token after the received events."""
        return self._request.resume_token

    async def run(self) -> None:
        """Watches until it is cancelled."""
        while True:
            call = self._reconciliation.WatchCidEvents(self._request)
            received = 0
            async for answer in call:
                self.events += map(seen, answer.events)
                self._request.resume_token = answer.resume_token
                self.tokens[len(self.events)] = answer.resume_token
                self.ready.set()
                received += len(answer.events)
                if self._cut and received > self._cut:
                    call.cancel()
                    break


@contextlib.asynccontextmanager
async def watching(reconciliation: Reconciliation, *, cut: int = 0, **request: object) -> AsyncIterator[Watcher]:
    """Returns a watcher that has received its first token."""
    watcher = Watcher(reconciliation, pb.WatchCidEventsRequest(**request), cut=cut)  # type: ignore[arg-type]  # fields by name
    async with asyncio.timeout(60):
        await watcher.ready.wait()
    try:
        yield watcher
    finally:
        watcher.task.cancel()
        await asyncio.gather(watcher.task, return_exceptions=True)
