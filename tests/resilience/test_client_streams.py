"""The client's streams during random faults of the network, the database and the service."""

import asyncio
import contextlib
import random
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import pytest
import vsync
from vsync.health.v1 import health_pb2
from vsync.reconnect import is_transient
from vsync.v1 import cid_pb2
from vsync.v1 import reconciliation_pb2 as pb
from vsyncd.app import Application

from tests.harness.cids import a_record, a_request_id, some_records
from tests.harness.client_streams import TWINS, Enough, Reader, Start, never
from tests.harness.clusters import Database
from tests.harness.fault_proxy import FaultProxy
from tests.harness.recovery import FaultReport
from tests.resilience.conftest import proxy_url, settings_of

TIMEOUT_S: Final = 5.0
# An upper limit for what follows after a fault has ended: what takes longer hangs.
LIMIT_S: Final = 90
EXPORTED: Final = 5_000
IMPORTED: Final = 1_000
EVENTS: Final = 5
IMPORT_ISPB, EVENTS_ISPB = "87654321", "11112222"


class Service:
    """vsyncd with a proxy to its database and a proxy to its clients."""

    def __init__(self, database: Database, to_database: FaultProxy) -> None:
        self._settings = settings_of(proxy_url(database, to_database.port))
        self._running = contextlib.AsyncExitStack()
        self.to_database = to_database
        self.to_clients = FaultProxy(0)
        # Slow enough for faults to find streams on their way.
        self.to_clients.delay = 0.02

    async def start(self) -> None:
        """Starts it on the same port as before."""
        application = await self._running.enter_async_context(Application(self._settings))
        self.to_clients.path = application.port

    async def stop(self) -> None:
        """Stops it."""
        await self._running.aclose()

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[vsync.Client]:
        """A client without the proxy, which is not affected by network faults."""
        async with vsync.connect(f"127.0.0.1:{self.to_clients.path}") as client:
            yield client

    @contextlib.asynccontextmanager
    async def fault(self, kind: str) -> AsyncIterator[None]:
        """Injects a fault for the duration of the block."""
        away = kind in {"database", "database and restart"}
        restarted = kind in {"restart", "database and restart"}
        if away:
            await self.to_database.refuse()
        if kind == "hang":
            self.to_clients.hang()
        if kind == "refuse" or restarted:
            await self.to_clients.refuse()
        if restarted:
            await self.stop()
        try:
            yield
        finally:
            if away:
                await self.to_database.accept()
            if restarted:
                await self.start()
            if kind == "refuse" or restarted:
                await self.to_clients.accept()
            self.to_clients.flow()
            self.to_clients.cut()


FAULTS: Final = ("cut", "hang", "refuse", "database", "restart", "database and restart")


@pytest.fixture
async def service(database: Database, proxy: FaultProxy) -> AsyncIterator[Service]:
    service = Service(database, proxy)
    await service.start()
    try:
        async with service.to_clients:
            yield service
    finally:
        await service.stop()


@dataclass
class Round:
    """All streams of both clients during one fault."""

    number: int
    token: str
    """The token of WatchCidEvents from before the round."""
    healed: threading.Event = field(default_factory=threading.Event)
    created: list[str] = field(default_factory=list)
    """The CIDs of the round's events."""

    def readers(self, target: str) -> dict[tuple[str, str], Reader]:
        """Returns a reader for each stream and client."""
        return {
            (name, twin): Reader(twin, target, start, enough)
            for index, twin in enumerate(TWINS)
            for name, (start, enough) in self._streams(index).items()
        }

    def _streams(self, index: int) -> dict[str, tuple[Start, Enough]]:
        first = 1_000_000 + (2 * self.number + index) * IMPORTED
        records = [a_record(number, ispb=IMPORT_ISPB) for number in range(first, first + IMPORTED)]
        options = vsync.ImportOptions(chunk_size=50, reconnect_timeout=TIMEOUT_S)
        ours = [bytes.fromhex(record.cid) for record in some_records(EXPORTED)]
        compared = vsync.DiffOptions(
            ispb=ours_ispb(),
            key_type=cid_pb2.KEY_TYPE_CPF,
            file_created_at=datetime.now(UTC),
            reconnect_timeout=TIMEOUT_S,
        )
        export = cid_pb2.ExportCidsRequest(filter=cid_pb2.CidFilter(ispb=ours_ispb()))
        watch = pb.WatchCidEventsRequest(ispb=EVENTS_ISPB, resume_token=self.token)
        return {
            "export": (lambda client: client.export(export, reconnect_timeout=TIMEOUT_S), never),
            "import": (lambda client: client.import_records(records, options), never),
            "diff": (lambda client: client.diff(packed(ours[1:]), compared), never),
            "watch_events": (
                lambda client: client.watch_cid_events(watch, reconnect_timeout=TIMEOUT_S),
                lambda messages: self.healed.is_set() and len(events_of(messages)) >= len(self.created),
            ),
            "watch_health": (
                lambda client: client.watch_health(health_pb2.HealthRequest(), reconnect_timeout=TIMEOUT_S),
                lambda _messages: self.healed.is_set(),
            ),
        }

    def check(self, name: str, messages: Sequence[Any]) -> None:
        """Checks that a completed stream has yielded everything once."""
        if name == "export":
            cids = [record.cid for message in messages for record in message.records]
            assert sorted(cids) == sorted(record.cid for record in some_records(EXPORTED))
        elif name == "import":
            assert (messages[-1].records, messages[-1].inserted) == (IMPORTED, IMPORTED)
        elif name == "diff":
            summary = messages[-1].summary
            assert (summary.missing_here, summary.missing_there) == (0, 1)
        elif name == "watch_events":
            assert events_of(messages) == self.created
        else:
            assert messages


def ours_ispb() -> str:
    return a_record(0).ispb


def packed(cids: Sequence[bytes]) -> list[bytes]:
    return [b"".join(cids[start : start + 500]) for start in range(0, len(cids), 500)]


def events_of(messages: Sequence[Any]) -> list[str]:
    return [event.cid for message in messages for event in message.events]


async def create_events(service: Service, created: list[str], first: int) -> None:
    """Creates records one by one, and repeats failed calls."""
    for number in range(first, first + EVENTS):
        record = a_record(number, ispb=EVENTS_ISPB)
        created.append(record.cid)
        request = cid_pb2.CreateCidRequest(record=record, request_id=a_request_id())
        async with asyncio.timeout(LIMIT_S):
            while True:
                try:
                    async with service.client() as client:
                        await client.cids.CreateCid(request)
                    break
                except vsync.CallError as error:
                    if not is_transient(error):
                        raise
                    await asyncio.sleep(0.1)


async def begin(service: Service, number: int) -> Round:
    async with service.client() as client:
        async for message in client.watch_cid_events(pb.WatchCidEventsRequest(ispb=EVENTS_ISPB)):
            return Round(number, message.resume_token)
    raise AssertionError("a watch has no end")


async def outcome_of(reader: Reader, delay: float, check: Callable[[Sequence[Any]], None]) -> str:
    """Reads a stream after a delay. Returns "complete" or the code of its error."""
    await asyncio.sleep(delay)
    try:
        messages = await reader.read()
    except vsync.CallError as error:
        if not is_transient(error):
            raise
        return error.code.name
    check(messages)
    return "complete"


async def run_round(service: Service, number: int, chance: random.Random) -> Counter[tuple[str, str]]:
    """Injects one fault at a random time for a random duration. Returns the number of each outcome per stream."""
    this, kind = await begin(service, number), chance.choice(FAULTS)
    first = 10_000_000 + number * 2 * EVENTS
    await create_events(service, this.created, first)
    readers = this.readers(f"127.0.0.1:{service.to_clients.port}")
    async with asyncio.TaskGroup() as group:
        tasks = {
            key: group.create_task(
                outcome_of(reader, chance.uniform(0, 1.5), lambda messages, name=key[0]: this.check(name, messages))  # type: ignore[misc]
            )
            for key, reader in readers.items()
        }
        await asyncio.sleep(chance.uniform(0, 2))
        async with service.fault(kind):
            await asyncio.sleep(chance.uniform(0, 1.4 * TIMEOUT_S))
        await create_events(service, this.created, first + EVENTS)
        this.healed.set()
        # Streams that survived the fault are lost once more, so that each watch gives another message.
        service.to_clients.cut()
        async with asyncio.timeout(LIMIT_S):
            await asyncio.wait(tasks.values())
    return Counter((name, task.result()) for (name, _), task in tasks.items())


@pytest.mark.parametrize("runs", [10, pytest.param(200, marks=pytest.mark.soak)])
async def test_streams_end_completely_or_with_an_error_whatever_the_fault(
    service: Service, runs: int, report: FaultReport
) -> None:
    chance, outcomes = random.Random(runs), Counter[tuple[str, str]]()  # noqa: S311 - no secret
    async with service.client() as client:
        await client.reconciliation.GetVsync(
            pb.GetVsyncRequest(ispb=ours_ispb(), key_type=cid_pb2.KEY_TYPE_CPF), timeout=LIMIT_S
        )
        assert [step async for step in client.import_records(some_records(EXPORTED))][-1].inserted == EXPORTED
    for number in range(runs // (5 * len(TWINS))):
        outcomes += await run_round(service, number, chance)
    assert outcomes.total() == runs
    report.figure("outcomes", {" ".join(key): count for key, count in sorted(outcomes.items())})
