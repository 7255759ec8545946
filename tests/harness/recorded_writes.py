"""Writes by many callers, all of them recorded: what was sent, what callers were told, what is in the tables of it.

`check` is what every fault has to leave standing: no acknowledged write is lost, none took effect twice, and one that
was not acknowledged is wholly there or not at all.
"""

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, field
from random import uniform
from typing import Any, Final

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from vsync.v1 import cid_pb2 as pb

from tests.harness import reconciliation as sets
from tests.harness.cids import Stub, a_record, a_request_id, cid_of, rows
from tests.harness.clusters import Database
from tests.harness.stopwatch import now

ADDED, REMOVED = 1, 2
BATCH: Final = 5
# The database's times and ours; and what a machine that does other things takes to wake us.
SLACK: Final = 1.0

# What callers may be told while the database is in trouble (docs/api.md). DEADLINE_EXCEEDED alone comes from the
# caller's own clock, when it was the first to see the deadline.
TROUBLE: Final = frozenset(
    {
        "UNAVAILABLE DATABASE_UNAVAILABLE",
        "UNAVAILABLE CIRCUIT_OPEN",
        "UNAVAILABLE POOL_EXHAUSTED",
        "UNAVAILABLE READ_ONLY_MODE",
        "DEADLINE_EXCEEDED QUERY_TIMEOUT",
        "DEADLINE_EXCEEDED",
        "ABORTED CONTENTION",
    }
)


@dataclass(kw_only=True)
class Write:
    """A mutation with its own request_id, which is its correlation id too, so that the audit trail tells of it."""

    method: str
    request: Message
    cids: Sequence[str]
    change: int
    request_id: str
    acknowledged: bool = False


def told(error: grpc.aio.AioRpcError) -> str:
    """The code, and the reason when the server gave one: what comes from gRPC itself has none."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # it reads what this has
    info = error_details_pb2.ErrorInfo()
    known = status is not None and any(detail.Unpack(info) for detail in status.details)
    return f"{error.code().name} {info.reason}".strip() if known else error.code().name


def asked_to_wait(error: grpc.aio.AioRpcError) -> float | None:
    """Seconds in the RetryInfo of an answer."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # it reads what this has
    retry = error_details_pb2.RetryInfo()
    if status is None or not any(detail.Unpack(retry) for detail in status.details):
        return None
    return float(retry.retry_delay.ToNanoseconds()) / 1e9


@dataclass
class RecordedWrites:
    """Callers that write until `stop`, each write tried again under its request_id until it is acknowledged.

    `deadline` is in seconds, of each attempt.
    """

    cids: Stub
    deadline: float = 5.0
    writes: list[Write] = field(default_factory=list)
    told: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    overdue: float = 0.0
    _stopped: bool = False
    _progressed: asyncio.Event = field(default_factory=asyncio.Event)
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    @contextlib.asynccontextmanager
    async def by(self, callers: int) -> AsyncIterator[None]:
        """As many callers, for as long as the block lasts; each ends its present write, or gives it up."""
        self._stopped = False
        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(self._keep_writing())
            try:
                yield
            finally:
                self._stopped = True

    async def progress(self, writes: int, *, seconds: float = 60) -> float:
        """Wait until so many more are acknowledged; the seconds until the first of them."""
        begin, before, first = now(), len(self.latencies), 0.0
        async with asyncio.timeout(seconds):
            while (count := len(self.latencies)) < before + writes:
                if not first and count > before:
                    first = now() - begin
                self._progressed.clear()
                await self._progressed.wait()
        return first or now() - begin

    async def attempt(self, write: Write) -> grpc.aio.AioRpcError | None:
        """Send it once."""
        begin = now()
        method: Any = getattr(self.cids, write.method)
        try:
            await method(write.request, timeout=self.deadline, metadata=(("x-correlation-id", write.request_id),))
        except grpc.aio.AioRpcError as error:
            self.told[told(error)] += 1
            return error
        else:
            write.acknowledged = True
            self.latencies.append(now() - begin)
            self._progressed.set()
            return None
        finally:
            self.overdue = max(self.overdue, now() - begin - self.deadline)

    def creation(self, count: int = 1) -> Write:
        """A creation of records that no other write creates."""
        numbers = [next(self._numbers) for _ in range(count)]
        records, request_id = [a_record(number) for number in numbers], a_request_id()
        request: Message = (
            pb.CreateCidRequest(record=records[0], request_id=request_id)
            if count == 1
            else pb.BatchCreateCidsRequest(records=records, request_id=request_id)
        )
        method = "CreateCid" if count == 1 else "BatchCreateCids"
        return self._record(method, request, [cid_of(number) for number in numbers], ADDED, request_id)

    def removal(self, cids: Sequence[str]) -> Write:
        """A removal of what an acknowledged write created."""
        request_id = a_request_id()
        request = pb.BatchDeleteCidsRequest(cids=cids, request_id=request_id)
        return self._record("BatchDeleteCids", request, cids, REMOVED, request_id)

    def check(self, database: Database, *, allowed: Collection[str] = TROUBLE, may_lose: bool = False) -> int:
        """The promise. `allowed` is what callers may have been told.

        `may_lose`: acknowledged writes may be gone, wholly. How many is the result.
        """
        assert self.told.keys() <= set(allowed), self.told
        assert self.overdue < SLACK, f"a call ended {self.overdue:.2f} s past its deadline"
        tables = _Tables(database)
        there: set[str] = set()
        lost = 0
        for write in self.writes:
            times = tables.audited.pop(write.request_id, 0)
            assert times <= 1, f"took effect {times} times: {write}"
            kept = write.request_id in tables.requests
            lost += write.acknowledged and not kept
            assert may_lose or not lost, f"acknowledged and lost: {write}"
            # What is not there any more, since its creation was lost, cannot be removed, and leaves no entry then.
            due = [cid for cid in write.cids if write.change == ADDED or cid in there] if kept else []
            assert bool(times) == bool(due), f"not whole: {write}"
            events = tables.events.get(write.request_id, [])
            assert sorted(events) == sorted((cid, write.change) for cid in due), f"not whole: {write}"
            there = there | set(due) if write.change == ADDED else there - set(due)
        assert tables.cids == there
        assert sets.kept(database) == sets.model(database), "the VSyncs that are kept are not those of the set"
        assert not tables.audited, "something took effect that nobody sent"
        return lost

    async def _keep_writing(self) -> None:
        while not self._stopped:
            await self._insist(self.creation())
            batch = self.creation(BATCH)
            if await self._insist(batch):
                await self._insist(self.removal(batch.cids[:2]))

    async def _insist(self, write: Write) -> bool:
        while (error := await self.attempt(write)) is not None:
            if self._stopped:
                return False
            await asyncio.sleep(asked_to_wait(error) or uniform(0.02, 0.1))  # noqa: S311  no secret
        return True

    def _record(self, method: str, request: Message, cids: Sequence[str], change: int, request_id: str) -> Write:
        write = Write(method=method, request=request, cids=cids, change=change, request_id=request_id)
        self.writes.append(write)
        return write


class _Tables:
    """What is there, by the request ids that the writes had."""

    def __init__(self, database: Database) -> None:
        self.cids = {row["cid"] for row in rows(database, "SELECT encode(cid, 'hex') AS cid FROM vsync.cids")}
        audited = rows(database, "SELECT correlation_id, count(*) AS times FROM vsync.audit_logs GROUP BY 1")
        self.audited = {row["correlation_id"]: row["times"] for row in audited}
        # Near a week's begin a request is kept in both weeks.
        self.requests = {
            str(row["request_id"]) for row in rows(database, "SELECT DISTINCT request_id FROM vsync.request_ids")
        }
        self.events: dict[str, list[tuple[str, int]]] = {}
        for row in rows(database, _EVENTS):
            self.events.setdefault(row["correlation_id"], []).append((row["cid"], row["change"]))


_EVENTS = """
    SELECT audit.correlation_id, encode(event.cid, 'hex') AS cid, event.change
    FROM vsync.cid_events AS event LEFT JOIN vsync.audit_logs AS audit ON audit.id = event.audit_id
"""
