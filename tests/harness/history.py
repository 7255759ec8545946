"""A load whose every call is recorded, and what the tables say of it afterwards."""

import asyncio
import itertools
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Self
from uuid import UUID

import grpc
from vsync.v1 import cid_pb2 as pb

from tests.harness.cids import Stub, a_record, a_request_id, info_of, rows
from tests.harness.clusters import Database

# What a caller may be told while a database is in trouble.
DOCUMENTED = frozenset(
    {
        "DATABASE_UNAVAILABLE",
        "CIRCUIT_OPEN",
        "POOL_EXHAUSTED",
        "QUERY_TIMEOUT",
        "READ_ONLY_MODE",
        "CONTENTION",
    }
)
_numbers = itertools.count(1)


@dataclass
class History:
    """What callers saw: which creations were acknowledged, by number, and what they were told otherwise."""

    acknowledged: dict[int, str] = field(default_factory=dict)
    attempted: dict[int, str] = field(default_factory=dict)
    reasons: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0

    def check(self, database: Database, *, slowest: float) -> None:
        """Nothing that was acknowledged is lost, nothing took effect twice, everything is whole or not at all."""
        assert set(self.reasons) <= DOCUMENTED, self.reasons
        assert self.slowest < slowest, f"a call took {self.slowest:.2f} s; {self.reasons}"
        there = {row["cid"]: row for row in rows(database, _WHOLE)}
        for number, identifier in self.acknowledged.items():
            row = there.get(a_record(number).cid)
            assert row is not None, f"{number} was acknowledged and is lost"
            assert row["id"] == UUID(identifier)
        for row in there.values():
            assert (row["audited"], row["requests"], row["events"]) == (1, 1, 1), row
        known = {a_record(number).cid for number in self.attempted}
        assert set(there) <= known
        audited = rows(database, "SELECT count(*) AS n FROM vsync.audit_logs")[0]["n"]
        assert audited == len(there), "an audit entry without its record"


_WHOLE = """
    SELECT c.id, encode(c.cid, 'hex') AS cid,
           (SELECT count(*) FROM vsync.audit_logs AS a WHERE a.id = c.id) AS audited,
           (SELECT count(DISTINCT request_id) FROM vsync.request_ids AS r WHERE r.answer = uuid_send(c.id)) AS requests,
           (SELECT count(*) FROM vsync.cid_events AS e WHERE e.cid = c.cid) AS events
    FROM vsync.cids AS c
"""


class Load:
    """Callers that create records as long as the block lasts, each trying again under the same request_id."""

    def __init__(self, cids: Stub, *, callers: int = 16, timeout: float = 2.0) -> None:
        self.history = History()
        self._cids = cids
        self._callers = callers
        self._timeout = timeout
        self._stop = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._call()) for _ in range(self._callers)]
        await self.progress(20)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop = True
        await asyncio.gather(*self._tasks)

    async def progress(self, count: int, *, seconds: float = 30) -> float:
        """Wait until so many more creations are acknowledged; the seconds until the first of them."""
        begin, target, started = len(self.history.acknowledged), 0.0, time.monotonic()
        async with asyncio.timeout(seconds):
            while len(self.history.acknowledged) < begin + count:
                if not target and len(self.history.acknowledged) > begin:
                    target = time.monotonic() - started
                await asyncio.sleep(0.005)  # what is awaited is the sum of many callers
        return target

    async def _call(self) -> None:
        while not self._stop:
            await self._create(next(_numbers))

    async def _create(self, number: int) -> None:
        request = pb.CreateCidRequest(record=a_record(number), request_id=a_request_id())
        self.history.attempted[number] = request.request_id
        while True:
            started = time.monotonic()
            try:
                response = await self._cids.CreateCid(request, timeout=self._timeout)
            except grpc.aio.AioRpcError as error:
                self._note(time.monotonic() - started)
                # The client's own clock may be the first to see the deadline: then there are no details.
                late = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
                self.history.reasons["QUERY_TIMEOUT" if late else info_of(error).reason] += 1
                if self._stop:
                    return
                await asyncio.sleep(0.02)  # as a client backs off
            else:
                self._note(time.monotonic() - started)
                self.history.acknowledged[number] = response.record.id
                return

    def _note(self, seconds: float) -> None:
        self.history.slowest = max(self.history.slowest, seconds)
