"""Redis in trouble: calls stay right and quick, the health report says so, and it mends by itself."""

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
from vsyncd.observability.metrics import CACHE

from tests.harness.cids import Stub, cid_of, create, until
from tests.harness.clusters import Database
from tests.harness.fault_proxy import FaultProxy
from tests.harness.private_servers import PrivateServer
from tests.harness.stopwatch import now
from tests.harness.valkey import ValkeyServer, valkey_server
from tests.integration.cache.instances import believed, found, when
from tests.resilience.conftest import PATIENT, cids_of, proxy_url, settings_of


class Cached:
    """vsyncd whose way to Valkey leads through a proxy, and a record that is there."""

    def __init__(self, application: Application, cids: Stub, valkey: ValkeyServer, proxy: FaultProxy) -> None:
        self.application = application
        self.cids = cids
        self.valkey = valkey
        self.proxy = proxy

    @property
    def in_use(self) -> bool:
        """Whether the cache is believed."""
        assert self.application.cache is not None
        return self.application.cache.follower.current and self.application.cache.breaker.closed

    async def reads(self, count: int = 20) -> None:
        """Read the record, which has to be right each time."""
        for _ in range(count):
            assert (await self.cids.GetCid(pb.GetCidRequest(cid=cid_of(1)))).record.cid == cid_of(1)

    async def status(self) -> str:
        """What the health report says of the cache, in which the whole has to follow it: nothing depends on a cache."""
        self.application._health.monitor.check_now()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.application.port}") as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            report = await stub.GetHealth(health.HealthRequest(include_details=True))
        status = {each.name: each.status for each in report.dependencies}["redis-cache"]
        assert report.status == (health.HEALTHY if status == health.HEALTHY else health.DEGRADED)
        return str(health.ServiceStatus.Name(status))

    async def says(self, status: str) -> None:
        """Wait until the report says so of the cache."""

        async def it_does() -> bool:
            return await self.status() == status

        await when(it_does)

    async def comes_back(self) -> None:
        """Wait until the cache answers again, and is found healthy."""
        await until(lambda: self.in_use)
        hits = CACHE.lookup_count("cid", "hit")

        async def it_hits() -> bool:
            await self.reads(1)
            return CACHE.lookup_count("cid", "hit") > hits and await self.status() == "HEALTHY"

        await when(it_hits)


@pytest.fixture
async def cached(database: Database, tmp_path: Path) -> AsyncIterator[Cached]:
    """Everything in order, and the record cached."""
    with valkey_server(tmp_path, maxmemory="20mb", enable_debug_command="yes") as valkey:
        async with FaultProxy(valkey.socket) as proxy:
            url = f"redis://127.0.0.1:{proxy.port}"
            settings = settings_of(
                database.service_url, redis_url=url, redis_breaker_reset=0.3, health_cache_seconds=0, **PATIENT
            )
            async with Application(settings) as application, cids_of(application) as cids:
                cached = Cached(application, cids, valkey, proxy)
                await create(cids, [1])
                await cached.comes_back()
                yield cached


async def test_gone(cached: Cached) -> None:
    cached.valkey.stop()
    await cached.reads()
    await until(lambda: not cached.in_use)
    await cached.says("UNHEALTHY")
    cached.valkey.start()
    await cached.comes_back()


async def test_frozen(cached: Cached) -> None:
    cached.valkey.freeze()
    await cached.reads(40)
    await until(lambda: not cached.in_use)
    await cached.says("UNHEALTHY")
    cached.valkey.thaw()
    await cached.comes_back()


async def test_a_black_hole(cached: Cached) -> None:
    cached.proxy.hang()
    await cached.reads(40)
    await until(lambda: not cached.in_use)
    accepted, begun = cached.proxy.accepted, time.monotonic()
    await asyncio.gather(*(cached.reads(20) for _ in range(20)))
    trials = (time.monotonic() - begun) / cached.application.settings.redis_breaker_reset
    assert cached.proxy.accepted - accepted < 20 + trials, "a storm of connections"
    cached.proxy.flow()
    await cached.comes_back()


async def test_slow(cached: Cached) -> None:
    """Slower than anyone waits for: reads do without."""
    cached.proxy.delay = 0.06
    bypassed = CACHE.lookup_count("cid", "bypass")
    await cached.reads(40)
    assert CACHE.lookup_count("cid", "bypass") > bypassed
    cached.proxy.delay = 0.0
    await cached.comes_back()


async def test_slower_than_the_database(cached: Cached) -> None:
    """It answers in time, every time, and it would be quicker without."""
    cached.proxy.delay = 0.004
    bypassed = CACHE.lookup_count("cid", "bypass")

    async def reads_do_without() -> bool:
        await cached.reads(10)
        return CACHE.lookup_count("cid", "bypass") > bypassed + 20

    await when(reads_do_without)
    cached.proxy.delay = 0.0
    await cached.comes_back()


async def test_every_connection_cut_again_and_again(cached: Cached) -> None:
    for _ in range(20):
        cached.proxy.cut()
        await cached.reads(2)
    await cached.comes_back()


async def test_restarted_empty(cached: Cached) -> None:
    cached.valkey.stop()
    cached.valkey.start()
    await cached.comes_back()


async def test_full(cached: Cached) -> None:
    with cached.valkey.client() as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1")
        await create(cached.cids, range(2, 6))
        assert cached.application.cache is not None
        cache = cached.application.cache.cache

        async def it_is_full() -> bool:
            for number in range(2, 6):
                await cached.cids.GetCid(pb.GetCidRequest(cid=cid_of(number)))
            return cache.full

        await when(it_is_full)
        await cached.says("DEGRADED")
        # What changes is taken out all the same, and the rest still answers.
        await cached.cids.DeleteCid(pb.DeleteCidRequest(cid=cid_of(2)))
        await until(lambda: cached.in_use)
        await cached.reads()
        client.config_set("maxmemory", "0")
    await cached.cids.GetCid(pb.GetCidRequest(cid=cid_of(3)))
    await cached.comes_back()


async def test_garbage(cached: Cached) -> None:
    """Something else answers on its port."""
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
    await cached.says("UNHEALTHY")
    server.close()
    await cached.proxy.accept()
    await cached.comes_back()


Lie = Callable[[int, bytes], bytes]
LIES: dict[str, Lie] = {
    "numbers": lambda count, _: b"*%d\r\n" % count + b":1\r\n" * count,
    "lists": lambda count, _: b"*%d\r\n" % count + b"*1\r\n:1\r\n" * count,
    "numbers behind the place": lambda count, kept: (
        b"*%d\r\n$%d\r\n%b\r\n" % (count, len(kept), kept) + b":1\r\n" * (count - 1)
    ),
    "one too many": lambda count, _: b"*%d\r\n" % (count + 1) + b"$-1\r\n" * (count + 1),
    "a list in a list without end": lambda _count, _kept: b"*1\r\n" * 100_000,
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
async def test_answers_of_another_kind(cached: Cached, lie: Lie) -> None:
    """It speaks as Redis does, and answers MGET with something else."""
    with cached.valkey.client() as client:
        kept = client.get(client.keys("vsync:feed*")[0]) or b""
    told = 0

    def answer(said: bytes) -> bytes | None:
        nonlocal told
        if b"MGET" not in said:
            return None
        told += 1
        return lie(int(said[1 : said.index(b"\r\n")]) - 1, kept)

    cached.proxy.answer = answer

    async def it_lied() -> bool:
        await cached.reads(5)
        return told > 0

    await when(it_lied)
    await cached.reads(20)
    cached.proxy.answer = lambda _said: None
    await cached.comes_back()


async def test_demoted(cached: Cached) -> None:
    """It has become a replica, as after a failover: it refuses writes, and is not believed for long."""
    with cached.valkey.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        await create(cached.cids, [7])
        await cached.reads()
        await until(lambda: not cached.in_use)
        client.execute_command("REPLICAOF", "NO", "ONE")
    await cached.comes_back()


async def test_a_first_host_that_hangs_does_not_keep_the_cache_from_following(
    database: Database, server: PrivateServer, tmp_path: Path
) -> None:
    with valkey_server(tmp_path) as valkey:
        async with FaultProxy(server.socket) as dead, FaultProxy(server.socket) as good:
            dead.hang()
            settings = settings_of(proxy_url(database, dead.port, good.port), redis_url=valkey.url, **PATIENT)
            settings = settings.model_copy(update={"db_connect_timeout": 2})
            async with Application(settings) as application, cids_of(application) as cids:
                await believed(application)
                await create(cids, [1])
                await found("hit", lambda: cids.GetCid(pb.GetCidRequest(cid=cid_of(1))))


async def test_the_start_does_not_wait_for_it(database: Database) -> None:
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
def somebody_who_never_accepts() -> Iterator[int]:
    """A port whose queue is full: who connects is not answered, as by a host that is gone."""
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


async def test_connecting_at_the_start_takes_as_long_as_it_may_and_no_longer(database: Database) -> None:
    with somebody_who_never_accepts() as port:
        settings = settings_of(database.service_url, redis_url=f"redis://127.0.0.1:{port}", redis_conn_timeout=2)
        begun = time.monotonic()
        async with Application(settings) as application:
            assert application.cache is not None
            follower = application.cache.follower
            await until(lambda: bool(follower._trouble))
            # Half of it: a loop that was busy before it connected counts from when that began.
            assert time.monotonic() - begun > 1, "other operations have a quarter of a second"
