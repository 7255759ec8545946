"""Overload: refused calls have a clear error, and accepted calls are answered in time."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import grpc
import pytest
from vsync.v1 import cid_pb2 as pb
from vsync.v1 import cid_pb2_grpc
from vsyncd.app import Application
from vsyncd.config import Settings
from vsyncd.domains.registry import load_settings

from tests.harness.backups import locked
from tests.harness.cids import a_record, a_request_id, rows, stored, until
from tests.harness.clusters import SERVICE, Database
from tests.harness.fault_proxy import FaultProxy
from tests.harness.recorded_writes import RecordedWrites, code_and_reason, retry_delay
from tests.harness.serving import serving, settings_for
from tests.resilience.conftest import proxy_url

REFUSED = "RESOURCE_EXHAUSTED OVERLOADED"
LIMIT = 64
_OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)


@pytest.fixture
def settings(database: Database, request: pytest.FixtureRequest) -> Settings:
    """Settings with a low limit, unless the test overrides it."""
    given = {"max_concurrent_calls": LIMIT, "max_calls_per_principal": 1000} | getattr(request, "param", {})
    return settings_for(database.service_url, db_auto_migrate=False, http_listen="127.0.0.1:0", **given)


@pytest.fixture
async def target(settings: Settings) -> AsyncIterator[str]:
    """The address of a running vsyncd."""
    async with Application(settings) as application:
        yield f"127.0.0.1:{application.port}"


async def test_at_twice_the_limit_every_accepted_call_is_answered(target: str, database: Database) -> None:
    async with grpc.aio.insecure_channel(target) as channel:
        writes = RecordedWrites(cid_pb2_grpc.CidServiceStub(channel), deadline=60)
        async with writes.running(2 * LIMIT):
            with locked(database, "vsync.cids"):
                await until(lambda: writes.errors[REFUSED] > 0)
            await writes.progress(10 * LIMIT)
    writes.check(database, allowed={REFUSED})


@pytest.mark.parametrize("settings", [{"max_concurrent_calls": 500}], indirect=True)
async def test_a_thousand_concurrent_clients_are_all_served(target: str, database: Database) -> None:
    answers: Counter[str] = Counter()

    async def client(number: int) -> None:
        request = pb.CreateCidRequest(record=a_record(number), request_id=a_request_id())
        async with grpc.aio.insecure_channel(target, options=_OWN_CONNECTION) as channel:
            cids = cid_pb2_grpc.CidServiceStub(channel)
            await channel.channel_ready()
            while True:
                try:
                    await cids.CreateCid(request, timeout=30)
                except grpc.aio.AioRpcError as error:
                    answers[code_and_reason(error)] += 1
                    await asyncio.sleep(retry_delay(error) or 0.1)
                else:
                    return

    async with asyncio.timeout(60):
        await asyncio.gather(*(client(number) for number in range(1000)))
    assert answers.keys() <= {REFUSED}
    assert len(stored(database)) == 1000


@pytest.mark.parametrize("rounds", [8, pytest.param(100, marks=pytest.mark.soak)])
@pytest.mark.parametrize("settings", [{"max_concurrent_calls": 500}], indirect=True)
async def test_cancelled_calls_have_no_partial_effects(
    settings: Settings, database: Database, proxy: FaultProxy, rounds: int
) -> None:
    proxy.delay = 0.02  # so that calls are cancelled before they are answered
    url = proxy_url(database, proxy.port)
    async with Application(load_settings(**settings.model_dump() | {"database_url": url})) as application:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{application.port}") as channel:
            writes = RecordedWrites(cid_pb2_grpc.CidServiceStub(channel))

            async def cancelled(number: int) -> None:
                # Single creations share a statement; a batch has its own transaction and connection.
                attempt = asyncio.create_task(writes.attempt(writes.creation(2 if number % 2 else 1)))
                await asyncio.sleep(number % 97 / 2000)
                attempt.cancel()
                await asyncio.wait({attempt})

            for _ in range(rounds):
                await asyncio.gather(*(cancelled(number) for number in range(100)))
            async with writes.running(4):
                await writes.progress(40)
        await until(lambda: application.calls_in_flight == 0 and active_connections(database) == 0)
    unanswered = sum(not write.acknowledged for write in writes.writes)
    assert unanswered > 25 * rounds, "most calls were answered before their cancellation"
    writes.check(database, allowed=())


def active_connections(database: Database) -> int:
    """Returns the number of the service's connections with an active statement or transaction."""
    query = "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = current_database() AND usename = %s"
    count: int = rows(database, f"{query} AND state <> 'idle'", SERVICE)[0]["n"]
    return count


Serve = Callable[[bytes, Any], Awaitable[bytes]]


def _service(serve: Serve, registry: Any) -> None:
    """Adds a unary and a streaming method over bytes."""

    async def stream(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield await serve(request, context)

    handlers: dict[str, Any] = {
        "Call": grpc.unary_unary_rpc_method_handler(serve),
        "Chat": grpc.stream_stream_rpc_method_handler(stream),
    }
    registry.add_registered_method_handlers("test.v1.Service", handlers)


async def test_the_bytes_of_calls_in_flight_are_limited() -> None:
    entered, leave = asyncio.Semaphore(0), asyncio.Event()

    async def wait(request: bytes, _context: Any) -> bytes:
        if request.startswith(b"wait"):
            entered.release()
            await leave.wait()
        return b"done"

    settings = settings_for("postgresql://nobody@127.0.0.1:1/nothing", max_concurrent_bytes=10_000)
    async with serving(settings, [partial(_service, wait)]) as channel:
        method: Any = channel.unary_unary("/test.v1.Service/Call")
        chat: Any = channel.stream_stream("/test.v1.Service/Chat")()
        held = method(b"wait".ljust(6000))
        await entered.acquire()
        for size, refused in ((4001, True), (4000, False)):
            assert await _code(method(b"x" * size)) == (REFUSED if refused else "OK")
        # A stream counts with its current message.
        for _ in range(3):
            await chat.write(b"x" * 3000)
            assert await chat.read() == b"done"
        assert await _code(method(b"x" * 1001)) == REFUSED
        assert await _code(method(b"x" * 1000)) == "OK"
        await chat.write(b"x" * 4001)
        assert await _code(chat.read()) == REFUSED
        assert await _code(method(b"x" * 4000)) == "OK"
        leave.set()
        assert await held == b"done"
        # A single call is always admitted: the message size has its own limit.
        assert await _code(method(b"x" * 50_000)) == "OK"
        assert await _code(method(b"x" * 10_000)) == "OK"


async def _code(call: Awaitable[Any]) -> str:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return code_and_reason(error)
    return "OK"
