"""Faults of Redis: calls stay correct, the health report shows the fault, and the cache recovers by itself."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import grpc
import pytest
from vsync.health.v1 import health_pb2 as health
from vsync.health.v1 import health_pb2_grpc
from vsync.v1 import cid_pb2 as pb
from vsyncd.app import Application
from vsyncd.observability.metrics import CACHE_LOOKUPS

from tests.harness.cids import Stub, cid_of, create, until
from tests.harness.clusters import Database
from tests.harness.fault_proxy import FaultProxy
from tests.harness.private_servers import PrivateServer
from tests.harness.stopwatch import now
from tests.harness.valkey import ValkeyServer, valkey_server
from tests.integration.cache.instances import cache_in_use, eventually, looked_up
from tests.resilience.conftest import PATIENT, cids_of, proxy_url, settings_of


class Cached:
    """A vsyncd that reaches Valkey through a proxy, with one record in the database."""

    def __init__(self, application: Application, cids: Stub, valkey: ValkeyServer, proxy: FaultProxy) -> None:
        self.application = application
        self.cids = cids
        self.valkey = valkey
        self.proxy = proxy

    @property
    def in_use(self) -> bool:
        """Whether the cache is in use."""
        assert self.application.cache is not None
        return self.application.cache.invalidator.is_current and self.application.cache.breaker.closed

    async def reads(self, count: int = 20) -> None:
        """Reads the record, which must be correct each time."""
        for _ in range(count):
            assert (await self.cids.GetCid(pb.GetCidRequest(cid=cid_of(1)))).record.cid == cid_of(1)

    async def status(self) -> str:
        """Returns the cache's status. Any fault of it makes the overall status DEGRADED: it is not critical."""
        self.application._health.monitor.check_now()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.application.port}") as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            report = await stub.GetHealth(health.HealthRequest(include_details=True))
        status = {each.name: each.status for each in report.dependencies}["redis-cache"]
        assert report.status == (health.HEALTHY if status == health.HEALTHY else health.DEGRADED)
        return str(health.ServiceStatus.Name(status))

    async def reports(self, status: str) -> None:
        """Waits until the cache has this status in the health report."""

        async def reported() -> bool:
            return await self.status() == status

        await eventually(reported)

    async def recovers(self) -> None:
        """Waits until the cache answers again and is healthy."""
        await until(lambda: self.in_use)
        hits = CACHE_LOOKUPS.value("cid", "hit")

        async def hit() -> bool:
            await self.reads(1)
            return CACHE_LOOKUPS.value("cid", "hit") > hits and await self.status() == "HEALTHY"

        await eventually(hit)


@pytest.fixture
async def cached(database: Database, tmp_path: Path) -> AsyncIterator[Cached]:
    """A healthy cache that contains the record."""
    with valkey_server(tmp_path, maxmemory="20mb", enable_debug_command="yes") as valkey:
        async with FaultProxy(valkey.socket) as proxy:
            url = f"redis://127.0.0.1:{proxy.port}"
            settings = settings_of(
                database.service_url, redis_url=url, redis_breaker_reset=0.3, health_cache_seconds=0, **PATIENT
            )
            async with Application(settings) as application, cids_of(application) as cids:
                cached = Cached(application, cids, valkey, proxy)
                await create(cids, [1])
                await cached.recovers()
                yield cached


async def test_a_stopped_redis_is_bypassed_until_it_is_started(cached: Cached) -> None:
    cached.valkey.stop()
    await cached.reads()
    await until(lambda: not cached.in_use)
    await cached.reports("UNHEALTHY")
    cached.valkey.start()
    await cached.recovers()


async def test_a_frozen_redis_is_bypassed_until_it_is_thawed(cached: Cached) -> None:
    cached.valkey.freeze()
    await cached.reads(40)
    await until(lambda: not cached.in_use)
    await cached.reports("UNHEALTHY")
    cached.valkey.thaw()
    await cached.recovers()


async def test_a_redis_behind_a_black_hole_is_bypassed_with_few_connection_attempts(cached: Cached) -> None:
    cached.proxy.hang()
    await cached.reads(40)
    await until(lambda: not cached.in_use)
    accepted, begun = cached.proxy.accepted, time.monotonic()
    await asyncio.gather(*(cached.reads(20) for _ in range(20)))
    trials = (time.monotonic() - begun) / cached.application.settings.redis_breaker_reset
    assert cached.proxy.accepted - accepted < 20 + trials, "a storm of connections"
    cached.proxy.flow()
    await cached.recovers()


async def test_lookups_that_exceed_the_lookup_timeout_are_bypassed(cached: Cached) -> None:
    cached.proxy.delay = 0.06
    bypassed = CACHE_LOOKUPS.value("cid", "bypass")
    await cached.reads(40)
    assert CACHE_LOOKUPS.value("cid", "bypass") > bypassed
    cached.proxy.delay = 0.0
    await cached.recovers()


async def test_repeated_slow_answers_bypass_the_cache(cached: Cached) -> None:
    """Redis answers within the lookup timeout, but more slowly than the database."""
    cached.proxy.delay = 0.004
    bypassed = CACHE_LOOKUPS.value("cid", "bypass")

    async def bypassing() -> bool:
        await cached.reads(10)
        return CACHE_LOOKUPS.value("cid", "bypass") > bypassed + 20

    await eventually(bypassing)
    cached.proxy.delay = 0.0
    await cached.recovers()


async def test_the_cache_recovers_from_repeatedly_cut_connections(cached: Cached) -> None:
    for _ in range(20):
        cached.proxy.cut()
        await cached.reads(2)
    await cached.recovers()


async def test_the_cache_recovers_from_a_restart_with_an_empty_redis(cached: Cached) -> None:
    cached.valkey.stop()
    cached.valkey.start()
    await cached.recovers()


async def test_a_full_redis_is_reported_and_changed_entries_are_still_deleted(cached: Cached) -> None:
    with cached.valkey.client() as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1")
        await create(cached.cids, range(2, 6))
        assert cached.application.cache is not None
        cache = cached.application.cache.cache

        async def full() -> bool:
            for number in range(2, 6):
                await cached.cids.GetCid(pb.GetCidRequest(cid=cid_of(number)))
            return cache.is_full

        await eventually(full)
        await cached.reports("DEGRADED")
        # Changed entries are deleted all the same, and the others are still used.
        await cached.cids.DeleteCid(pb.DeleteCidRequest(cid=cid_of(2)))
        await until(lambda: cached.in_use)
        await cached.reads()
        client.config_set("maxmemory", "0")
    await cached.cids.GetCid(pb.GetCidRequest(cid=cid_of(3)))
    await cached.recovers()


async def test_a_server_of_another_protocol_is_bypassed(cached: Cached) -> None:
    await cached.proxy.refuse()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while await reader.read(4096):
                writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n\xff\x00")
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", cached.proxy.port)
    await cached.reads(40)
    await until(lambda: not cached.in_use)
    await cached.reports("UNHEALTHY")
    server.close()
    await cached.proxy.accept()
    await cached.recovers()


# Makes an invalid answer to MGET from the number of keys and the stored watermark.
InvalidAnswer = Callable[[int, bytes], bytes]
INVALID_ANSWERS: dict[str, InvalidAnswer] = {
    "numbers": lambda count, _: b"*%d\r\n" % count + b":1\r\n" * count,
    "lists": lambda count, _: b"*%d\r\n" % count + b"*1\r\n:1\r\n" * count,
    "numbers after the watermark": lambda count, watermark: (
        b"*%d\r\n$%d\r\n%b\r\n" % (count, len(watermark), watermark) + b":1\r\n" * (count - 1)
    ),
    "one too many": lambda count, _: b"*%d\r\n" % (count + 1) + b"$-1\r\n" * (count + 1),
    "endlessly nested lists": lambda _count, _watermark: b"*1\r\n" * 100_000,
}


@pytest.mark.parametrize("invalid", INVALID_ANSWERS.values(), ids=INVALID_ANSWERS.keys())
async def test_answers_of_the_wrong_type_are_bypassed(cached: Cached, invalid: InvalidAnswer) -> None:
    """The server speaks Redis's protocol, but its answers to MGET have the wrong type."""
    with cached.valkey.client() as client:
        watermark = client.get(client.keys("vsync:feed*")[0]) or b""
    answered = 0

    def answer(request: bytes) -> bytes | None:
        nonlocal answered
        if b"MGET" not in request:
            return None
        answered += 1
        return invalid(int(request[1 : request.index(b"\r\n")]) - 1, watermark)

    cached.proxy.answer = answer

    async def used() -> bool:
        await cached.reads(5)
        return answered > 0

    await eventually(used)
    await cached.reads(20)
    cached.proxy.answer = lambda _request: None
    await cached.recovers()


async def test_a_redis_that_was_demoted_to_a_replica_is_bypassed(cached: Cached) -> None:
    """As after a failover, it refuses writes."""
    with cached.valkey.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        await create(cached.cids, [7])
        await cached.reads()
        await until(lambda: not cached.in_use)
        client.execute_command("REPLICAOF", "NO", "ONE")
    await cached.recovers()


async def test_the_cache_works_although_the_first_database_host_hangs(
    database: Database, server: PrivateServer, tmp_path: Path
) -> None:
    with valkey_server(tmp_path) as valkey:
        async with FaultProxy(server.socket) as dead, FaultProxy(server.socket) as good:
            dead.hang()
            settings = settings_of(proxy_url(database, dead.port, good.port), redis_url=valkey.url, **PATIENT)
            settings = settings.model_copy(update={"db_connect_timeout": 2})
            async with Application(settings) as application, cids_of(application) as cids:
                await cache_in_use(application)
                await create(cids, [1])
                await looked_up("hit", lambda: cids.GetCid(pb.GetCidRequest(cid=cid_of(1))))


async def test_the_start_does_not_wait_for_redis(database: Database) -> None:
    async with FaultProxy("/nowhere") as proxy:
        proxy.hang()
        settings = settings_of(
            database.service_url, redis_url=f"redis://127.0.0.1:{proxy.port}", redis_conn_timeout=100
        )
        begun = now()
        async with Application(settings) as application:
            assert now() - begun < settings.redis_conn_timeout
            async with cids_of(application) as cids:
                await create(cids, [1])
                await cids.GetCid(pb.GetCidRequest(cid=cid_of(1)))


@contextlib.contextmanager
def port_with_full_backlog() -> Iterator[int]:
    """A port whose backlog is full: connection attempts get no answer, as from an unreachable host."""
    with socket.socket() as listening, contextlib.ExitStack() as queue:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        while True:
            waiting = queue.enter_context(socket.socket())
            waiting.settimeout(0.5)
            try:
                waiting.connect(listening.getsockname())
            except TimeoutError:
                break
        yield listening.getsockname()[1]


async def test_connecting_at_the_start_may_take_redis_conn_timeout(database: Database) -> None:
    with port_with_full_backlog() as port:
        settings = settings_of(database.service_url, redis_url=f"redis://127.0.0.1:{port}", redis_conn_timeout=2)
        begun = time.monotonic()
        async with Application(settings) as application:
            assert application.cache is not None
            invalidator = application.cache.invalidator
            await until(lambda: bool(invalidator._last_error))
            # Half of it: a busy event loop may start the timeout before it connects.
            assert time.monotonic() - begun > 1, "other operations time out after a quarter of a second"
