"""Records writes by many callers, and checks their effects in the database.

`check` verifies what must hold after every fault: no acknowledged write is lost, none took effect twice, and a write
that was not acknowledged took effect completely or not at all.
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
BATCH_SIZE: Final = 5
# How late a call may end after its deadline, on a busy machine.
MAX_OVERDUE_S: Final = 1.0

# The errors that callers may get during a database fault (docs/api.md). DEADLINE_EXCEEDED without a reason comes from
# the caller's own gRPC, if it noticed the deadline first.
TRANSIENT_ERRORS: Final = frozenset(
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
class AnyWrite:
    """A mutation. Its request_id is also its correlation id, by which its audit entry is found."""

    method: str
    request: Message
    request_id: str
    acknowledged: bool = False
    answer: Any = None


@dataclass(kw_only=True)
class Write(AnyWrite):
    """A mutation of CIDs."""

    cids: Sequence[str]
    change: int


def code_and_reason(error: grpc.aio.AioRpcError) -> str:
    """Returns the code, and the reason if the server gave one. Errors of gRPC itself have none."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # it reads what this has
    info = error_details_pb2.ErrorInfo()
    known = status is not None and any(detail.Unpack(info) for detail in status.details)
    return f"{error.code().name} {info.reason}".strip() if known else error.code().name


def retry_delay(error: grpc.aio.AioRpcError) -> float | None:
    """Returns the seconds of the error's RetryInfo, or None."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # it reads what this has
    retry = error_details_pb2.RetryInfo()
    if status is None or not any(detail.Unpack(retry) for detail in status.details):
        return None
    return float(retry.retry_delay.ToNanoseconds()) / 1e9


@dataclass
class ConcurrentCallers:
    """Callers that write concurrently. Each write is retried under its request_id until it is acknowledged.

    `deadline`: seconds of each attempt. `errors` counts the errors that callers got. `max_overdue`: the seconds by
    which the latest call exceeded its deadline. `keep_writing` is what each caller does.
    """

    stub: Any
    deadline: float = 5.0
    errors: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    max_overdue: float = 0.0
    stopped: bool = False
    _progressed: asyncio.Event = field(default_factory=asyncio.Event)

    @contextlib.asynccontextmanager
    async def running(self, callers: int) -> AsyncIterator[None]:
        """Runs callers until the end of the block. Each then completes its current attempt."""
        self.stopped = False
        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(self.keep_writing())
            try:
                yield
            finally:
                self.stopped = True

    async def progress(self, writes: int, *, seconds: float = 60) -> float:
        """Waits until this number of further writes is acknowledged. Returns the seconds until the first of them."""
        begin, before, first = now(), len(self.latencies), 0.0
        async with asyncio.timeout(seconds):
            while (count := len(self.latencies)) < before + writes:
                if not first and count > before:
                    first = now() - begin
                self._progressed.clear()
                await self._progressed.wait()
        return first or now() - begin

    async def attempt(self, write: AnyWrite) -> grpc.aio.AioRpcError | None:
        """Sends a write once. Returns its error, or None."""
        begin = now()
        method = getattr(self.stub, write.method)
        try:
            metadata = (("x-correlation-id", write.request_id),)
            write.answer = await method(write.request, timeout=self.deadline, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            self.errors[code_and_reason(error)] += 1
            return error
        else:
            write.acknowledged = True
            self.latencies.append(now() - begin)
            self._progressed.set()
            return None
        finally:
            self.max_overdue = max(self.max_overdue, now() - begin - self.deadline)

    async def write_until_acknowledged(self, write: AnyWrite) -> bool:
        """Sends a write until it is acknowledged. Returns False if the callers were stopped before."""
        while (error := await self.attempt(write)) is not None:
            if self.stopped:
                return False
            await asyncio.sleep(retry_delay(error) or uniform(0.02, 0.1))  # noqa: S311  no secret
        return True

    async def keep_writing(self) -> None:
        """Writes until `stopped`."""
        raise NotImplementedError

    def check_errors(self, allowed: Collection[str] = TRANSIENT_ERRORS) -> None:
        """Verifies that callers got only allowed errors, and in time."""
        assert self.errors.keys() <= set(allowed), self.errors
        assert self.max_overdue < MAX_OVERDUE_S, f"a call ended {self.max_overdue:.2f} s past its deadline"


@dataclass
class RecordedWrites(ConcurrentCallers):
    """Writes of CIDs by concurrent callers."""

    stub: Stub
    writes: list[Write] = field(default_factory=list)
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    async def keep_writing(self) -> None:
        """Creates records, alone and in batches, and deletes some of each batch."""
        while not self.stopped:
            await self.write_until_acknowledged(self.creation())
            batch = self.creation(BATCH_SIZE)
            if await self.write_until_acknowledged(batch):
                await self.write_until_acknowledged(self.removal(batch.cids[:2]))

    def creation(self, count: int = 1) -> Write:
        """Returns a write that creates records, which no other write creates."""
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
        """Returns a write that deletes records of an acknowledged write."""
        request_id = a_request_id()
        request = pb.BatchDeleteCidsRequest(cids=cids, request_id=request_id)
        return self._record("BatchDeleteCids", request, cids, REMOVED, request_id)

    def check(self, database: Database, *, allowed: Collection[str] = TRANSIENT_ERRORS, may_lose: bool = False) -> int:
        """Verifies the effects of all writes. `allowed` are the errors that callers may have got.

        `may_lose`: acknowledged writes may be lost, if completely. Returns the number of lost writes.
        """
        self.check_errors(allowed)
        tables = _Tables(database)
        present: set[str] = set()
        lost = 0
        for write in self.writes:
            times = tables.audited.pop(write.request_id, 0)
            assert times <= 1, f"took effect {times} times: {write}"
            kept = write.request_id in tables.requests
            lost += write.acknowledged and not kept
            assert may_lose or not lost, f"acknowledged and lost: {write}"
            # A removal of records whose creation was lost changes nothing and leaves no audit entry.
            due = [cid for cid in write.cids if write.change == ADDED or cid in present] if kept else []
            assert bool(times) == bool(due), f"partial effect: {write}"
            events = tables.events.get(write.request_id, [])
            assert sorted(events) == sorted((cid, write.change) for cid in due), f"partial effect: {write}"
            present = present | set(due) if write.change == ADDED else present - set(due)
        assert tables.cids == present
        assert sets.kept(database) == sets.model(database), "the kept VSyncs differ from those of the CIDs"
        assert not tables.audited, "an effect without a write"
        return lost

    def _record(self, method: str, request: Message, cids: Sequence[str], change: int, request_id: str) -> Write:
        write = Write(method=method, request=request, cids=cids, change=change, request_id=request_id)
        self.writes.append(write)
        return write


class _Tables:
    """The effects in the database, by request id."""

    def __init__(self, database: Database) -> None:
        self.cids = {row["cid"] for row in rows(database, "SELECT encode(cid, 'hex') AS cid FROM vsync.cids")}
        audited = rows(database, "SELECT correlation_id, count(*) AS times FROM vsync.audit_logs GROUP BY 1")
        self.audited = {row["correlation_id"]: row["times"] for row in audited}
        # Near the beginning of a week a request id is kept in both weeks.
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
