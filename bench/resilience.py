"""The waiting times of callers and probes under load, and while the database hangs, stops and recovers."""

import asyncio
import math
import shutil
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.request import urlopen
from uuid import uuid4

import grpc
import psutil
import psycopg
import uvloop
from vsync.health.v1 import health_pb2 as health
from vsync.health.v1.health_pb2_grpc import HealthStub
from vsync.v1 import cid_pb2 as pb
from vsync.v1.cid_pb2_grpc import CidServiceStub
from vsyncd.config import Settings
from vsyncd.domains.registry import load_settings
from vsyncd.health.checkers import PostgresChecker
from vsyncd.migrate import MigrationTarget, run_migrations
from vsyncd.postgres.database import Database

from bench import load
from bench.entries import record
from bench.report import Figure
from bench.servers import Service, vsyncd
from tests.harness.private_servers import Agent, PrivateServer
from tests.harness.recorded_writes import code_and_reason

if TYPE_CHECKING:  # generated for type checkers alone
    from vsync.v1.cid_pb2_grpc import CidServiceAsyncStub

_DATABASE: Final = "resilience"
_WORKERS: Final = 50
_ACQUISITIONS: Final = 20_000
_PROBES: Final = 500
_OUTAGES: Final = 5
_REFUSALS: Final = 2_000
_IN_FLIGHT: Final = 200
_OPEN: Final = "UNAVAILABLE CIRCUIT_OPEN"
_GAUGE: Final = "vsyncd_calls_in_flight{"


def run() -> list[Figure]:
    """Returns all figures and their targets."""
    with _server() as server:
        conninfo = server.admin(_DATABASE)
        settings = load_settings(database_url=conninfo, db_auto_migrate=False)
        figures = [
            _milliseconds("connection made", uvloop.run(_connects(settings)), at_most=5_000, worst=True),
            _milliseconds("connection acquired, P99", uvloop.run(_acquisitions(settings)), at_most=10),
        ]
        with vsyncd(conninfo) as service:
            figures += uvloop.run(_under_load(service, settings))
            figures.append(uvloop.run(_hanging(service, server)))
            figures += uvloop.run(_circuit_open(service, server))
            figures.append(uvloop.run(_recovery(service, server)))
            figures.append(uvloop.run(_shutdown(service, conninfo)))
    return figures


@contextmanager
def _server() -> Iterator[PrivateServer]:
    """Starts a PostgreSQL with durable commits for fault injection, and a migrated database."""
    folder = Path(tempfile.mkdtemp(prefix="vsyncd-bench-"))
    folder.chmod(0o755)  # under root another user runs the server
    agent = Agent(folder)
    try:
        server = PrivateServer.fresh(agent, "server")
        _start(server)
        server.execute(f'CREATE DATABASE "{_DATABASE}"')
        run_migrations(MigrationTarget(conninfo=server.admin(_DATABASE)))
        yield server
    finally:
        agent.close()
        shutil.rmtree(folder)


def _start(server: PrivateServer) -> None:
    server.start(fsync="on", full_page_writes="on", max_connections="100")


async def _connects(settings: Settings) -> list[float]:
    """Returns the connect times in seconds of several new connections."""
    connector = Database(settings).primary.connector
    samples = []
    for _ in range(20):
        begin = time.perf_counter()
        connection = await connector.connect("bench")
        samples.append(time.perf_counter() - begin)
        await connection.close()
    return samples


async def _acquisitions(settings: Settings) -> list[float]:
    """Returns the waiting times for a connection in seconds, with twice as many callers as connections."""
    database = Database(settings)
    await database.open()
    await database.pool.wait()
    samples: list[float] = []

    async def use() -> None:
        while len(samples) < _ACQUISITIONS:
            asked = time.perf_counter()

            async def work(connection: psycopg.AsyncConnection[Any], asked: float = asked) -> None:
                samples.append(time.perf_counter() - asked)
                await connection.execute("SELECT 1")

            await database.primary.execute(work, acquire_timeout=None)

    try:
        await asyncio.gather(*(use() for _ in range(_WORKERS)))
    finally:
        await database.close()
    return samples[_WORKERS * 10 :]  # without the pool's growth


async def _no_migrations(_connection: object) -> dict[str, int]:
    return {}


async def _under_load(service: Service, settings: Settings) -> list[Figure]:
    """Measures pings and probes during 64 concurrent calls."""
    checker = PostgresChecker(settings, Database(settings).primary, missing_migrations=_no_migrations)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{service.port}") as channel:
        stub = HealthStub(channel)
        busy = asyncio.create_task(asyncio.to_thread(_load, service.port))
        try:
            pings = await _times(checker.check, while_=lambda: not busy.done())
            lively = await _times(lambda: stub.GetLiveness(health.LivenessRequest()), while_=lambda: not busy.done())
        finally:
            await busy
            await checker.close()
    return [
        _milliseconds("ping under load, P99", pings, at_most=100),
        _milliseconds("GetLiveness under load, P99", lively, at_most=50),
    ]


def _load(port: int) -> None:
    records = [record(number) for number in range(10_000)]
    requests = [pb.CreateCidRequest(record=r, request_id=str(uuid4())).SerializeToString() for r in records]
    load.run(port, "/vsync.v1.CidService/CreateCid", requests, concurrency=64)


async def _times(
    call: Callable[[], Awaitable[object]], *, while_: Callable[[], bool], every: float = 0.0
) -> list[float]:
    samples: list[float] = []
    while len(samples) < _PROBES and while_():
        begin = time.perf_counter()
        await call()
        samples.append(time.perf_counter() - begin)
        await asyncio.sleep(every)
    if len(samples) < 100:
        raise RuntimeError("the load ended too soon to say anything")
    return samples


async def _hanging(service: Service, server: PrivateServer) -> Figure:
    """Measures GetHealth while PostgreSQL is frozen, from the start of the fault."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{service.port}") as channel:
        stub = HealthStub(channel)
        with server.frozen():
            # Several rounds of checks, each of which waits for DB_PING_TIMEOUT.
            samples = await _times(lambda: stub.GetHealth(health.HealthRequest()), while_=lambda: True, every=0.03)
    return _milliseconds("GetHealth while PostgreSQL hangs, P99", samples, at_most=500)


async def _circuit_open(service: Service, server: PrivateServer) -> list[Figure]:
    """Measures how long sequential callers wait for the error while PostgreSQL is down, including trials."""
    samples: list[float] = []
    async with grpc.aio.insecure_channel(f"127.0.0.1:{service.port}") as channel:
        stub: CidServiceAsyncStub = CidServiceStub(channel)
        server.stop(signal.SIGQUIT)
        while len(samples) < _REFUSALS:
            begin = time.perf_counter()
            answer = await _answer(stub)
            seconds = time.perf_counter() - begin
            if answer == _OPEN:
                samples.append(seconds)
            elif samples:
                raise RuntimeError(f"while the breaker was open a caller was told {answer}")
        _start(server)
        await _first_write(stub, 99_999)
    name = "CIRCUIT_OPEN while PostgreSQL is gone"
    return [
        _milliseconds(f"{name}, P50", samples, at_most=5, share=0.5),
        _milliseconds(f"{name}, P99", samples, at_most=5),
    ]


async def _answer(stub: "CidServiceAsyncStub") -> str:
    try:
        await stub.GetCid(pb.GetCidRequest(cid=record(0).cid), timeout=5)
    except grpc.aio.AioRpcError as error:
        return code_and_reason(error)
    return "OK"


async def _recovery(service: Service, server: PrivateServer) -> Figure:
    """Returns the seconds from PostgreSQL's recovery to the first write."""
    samples = []
    async with grpc.aio.insecure_channel(f"127.0.0.1:{service.port}") as channel:
        stub: CidServiceAsyncStub = CidServiceStub(channel)
        await _first_write(stub, 100_000)
        for outage in range(_OUTAGES):
            server.stop(signal.SIGQUIT)
            while await _writes(stub, 200_000 + outage):
                pass
            _start(server)
            begin = time.perf_counter()
            await _first_write(stub, 300_000 + outage)
            samples.append(time.perf_counter() - begin)
    return _milliseconds("first write after an outage", samples, at_most=5_000, worst=True)


async def _first_write(stub: "CidServiceAsyncStub", number: int) -> None:
    while not await _writes(stub, number):  # noqa: ASYNC110  what is awaited is another process
        await asyncio.sleep(0.01)


async def _writes(stub: "CidServiceAsyncStub", number: int) -> bool:
    request = pb.CreateCidRequest(record=record(number), request_id=str(uuid4()))
    try:
        await stub.CreateCid(request, timeout=5)
    except grpc.aio.AioRpcError as error:
        return error.code() is grpc.StatusCode.ALREADY_EXISTS
    return True


async def _shutdown(service: Service, conninfo: str) -> Figure:
    """Returns the seconds from SIGTERM to the exit, with 200 writes that wait for a lock. Every write is answered."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{service.port}") as channel:
        stub: CidServiceAsyncStub = CidServiceStub(channel)
        with psycopg.connect(conninfo) as blocker:
            blocker.execute("LOCK TABLE vsync.cids IN SHARE MODE")
            calls = [
                stub.CreateCid(pb.CreateCidRequest(record=record(400_000 + n), request_id=str(uuid4())), timeout=60)
                for n in range(_IN_FLIGHT)
            ]
            sent = [asyncio.ensure_future(call.code()) for call in calls]
            while await asyncio.to_thread(_in_flight, service) < _IN_FLIGHT:  # noqa: ASYNC110  as above
                await asyncio.sleep(0.01)
            begin = time.perf_counter()
            service.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(1)  # how long the lock is held after the signal
        codes = await asyncio.gather(*sent)
        await asyncio.to_thread(psutil.Process(service.process.pid).wait, 60)
        seconds = time.perf_counter() - begin
    if any(code is not grpc.StatusCode.OK for code in codes):
        raise RuntimeError(f"calls in flight at the shutdown ended with {set(codes)}")
    return _milliseconds("shutdown with 200 calls in flight", [seconds], at_most=30_000, worst=True)


def _in_flight(service: Service) -> int:
    with urlopen(f"http://127.0.0.1:{service.http_port}/metrics") as answer:
        text: str = answer.read().decode()
    return sum(int(float(line.rsplit(" ", 1)[1])) for line in text.splitlines() if line.startswith(_GAUGE))


def _milliseconds(
    name: str, samples: Sequence[float], *, at_most: float, share: float = 0.99, worst: bool = False
) -> Figure:
    """Returns this percentile of the seconds, or the maximum, in milliseconds."""
    ordered = sorted(samples)
    value = ordered[-1 if worst else math.ceil(len(ordered) * share) - 1] * 1_000
    return Figure(
        bench="resilience",
        name=name,
        value=value,
        unit="ms",
        target=f"less than {at_most:,}",
        is_met=value < at_most,
        samples=[sample * 1_000 for sample in ordered[:: max(1, len(ordered) // 10)]],
    )
