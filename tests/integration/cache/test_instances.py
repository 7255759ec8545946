"""Two vsyncd over one PostgreSQL and one Valkey: shared health, and the view of a client that alternates."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import grpc
from redis.client import PubSub
from vsync.health.v1 import health_pb2 as health
from vsync.health.v1 import health_pb2_grpc
from vsync.v1 import cid_pb2 as pb
from vsyncd.app import Application
from vsyncd.config import Settings
from vsyncd.health.peer_status import PeerMessage, PeerStatus

from tests.harness.cids import Stub, a_record, cid_of, create, failure_of, until
from tests.harness.clusters import Database
from tests.harness.fault_proxy import FaultProxy
from tests.harness.logs import captured_logs
from tests.harness.serving import settings_for
from tests.harness.valkey import ValkeyServer
from tests.integration.cache.instances import instance, invalidated


async def test_a_client_that_alternates_reads_its_writes_at_once_with_the_token_and_soon_without_it(
    application: Application, cids: Stub, settings: Settings
) -> None:
    async with instance(settings) as (other, others):
        turns = [(cids, others), (others, cids)] * 3
        for number, (writer, reader) in enumerate(turns):
            request = pb.GetCidRequest(cid=cid_of(number))
            assert (await failure_of(reader.GetCid(request))).code() is grpc.StatusCode.NOT_FOUND
            call = writer.CreateCid(pb.CreateCidRequest(record=a_record(number)))
            record = (await call).record
            token = dict(await call.trailing_metadata() or ())["x-consistency-token"]
            assert (await reader.GetCid(request, metadata=(("x-consistency-token", token),))).record == record
            await invalidated(application, other)
            for stub in (writer, reader):
                assert (await stub.GetCid(request)).record == record


async def test_instances_share_their_health(application: Application, settings: Settings, valkey: ValkeyServer) -> None:
    sharing = application._health.sharing
    assert sharing is not None
    async with instance(settings) as (other, _):
        assert other.cache is not None
        assert other._health.sharing is not None
        await until(lambda: sharing.instances == 2)
        await until(lambda: other._health.sharing.instances == 2)  # type: ignore[union-attr]  # asserted above
        await until(lambda: sharing.peers[other.cache.instance].get("postgresql-primary") == "HEALTHY")  # type: ignore[union-attr]  # as above
        with valkey.client() as client:
            stored = client.get(other.cache.keys.instance(other.cache.instance))
            assert json.loads(stored or b"")["dependencies"]["postgresql-primary"] == "HEALTHY"
            assert 0 < client.ttl(other.cache.keys.instance(other.cache.instance)) <= 30


def urgent(channel: PubSub, application: Application) -> bool:
    """Whether an instance has asked the others for an immediate check since the last call."""
    assert application.cache is not None
    found = False
    while (message := channel.get_message(timeout=0.2)) is not None:
        shared = json.loads(message["data"])
        found = found or (shared["look"] and shared["instance"] == application.cache.instance)
    return found


async def test_a_breaker_that_opens_makes_the_other_instances_check_at_once(
    application: Application, settings: Settings, valkey: ValkeyServer
) -> None:
    async with instance(settings) as (other, _):
        sharing = other._health.sharing
        assert sharing is not None
        await until(lambda: sharing.instances == 2)
        await until(lambda: (peer := application._health.sharing) is not None and peer.instances == 2)
        monitor = other._health.monitor
        rounds = monitor._requested
        with valkey.client() as client, client.pubsub(ignore_subscribe_messages=True) as channel:
            channel.subscribe("vsync:health")
            # An instance that has just discovered another one also sends an urgent message.
            await until(lambda: not urgent(channel, application))
            looked = asyncio.get_running_loop().create_task(rounds.wait())
            application.database.primary.breaker.trip()
            await until(lambda: urgent(channel, application))
            async with asyncio.timeout(60):
                await looked
        # The other instance checks its own database and finds it healthy.
        assert other.database.primary.breaker.closed
        await until(lambda: application.database.primary.breaker.closed)


async def test_false_health_messages_are_checked_and_not_trusted(
    application: Application, cids: Stub, valkey: ValkeyServer
) -> None:
    await create(cids, [1])
    lie = {"instance": "somebody", "dependencies": {"postgresql-primary": "UNHEALTHY"}, "look": True}
    with valkey.client() as client:
        hostile = (b"[" * 10_000, b"[" * 1_000_000, b"\xff", b"{}", b"[]", b'{"instance":1,"dependencies":2,"look":3}')
        for message in (*hostile, json.dumps(lie).encode()):
            client.publish("vsync:health", message)
    sharing = application._health.sharing
    assert sharing is not None
    await until(lambda: "somebody" in sharing.peers)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{application.port}") as channel:
        report = await health_pb2_grpc.HealthStub(channel).GetHealth(health.HealthRequest(include_details=True))
    named = {each.name: each for each in report.dependencies}
    assert named["postgresql-primary"].status == health.HEALTHY
    cache = named["redis-cache"]
    assert (cache.type, cache.is_critical) == (health.CACHE, False)
    assert cache.config.metadata["instances"] == "2"
    assert "redis" in cache.config.protocol


async def test_an_instance_that_misses_its_own_messages_subscribes_again(
    settings: Settings, valkey: ValkeyServer
) -> None:
    """The connection of the subscription is lost silently; all others still work."""
    async with (
        FaultProxy(valkey.socket) as proxy,
        instance(settings, redis_url=f"redis://127.0.0.1:{proxy.port}") as (application, _),
    ):
        assert application.cache is not None
        sharing = PeerStatus(application.cache, application._health.monitor._registry, lambda: None, interval=0.2)
        sharing.start()
        with valkey.client() as client:

            def heard(name: str) -> bool:
                client.publish("vsync:health", PeerMessage(name, {}, urgent=False).encode())
                return name in sharing.peers

            await until(lambda: heard("before"))
            proxy.forget(b"SUBSCRIBE")
            await until(lambda: heard("after"))
        await sharing.stop()


@contextlib.asynccontextmanager
async def instance_without_cache(settings: Settings) -> AsyncIterator[tuple[Application, health.HealthResponse]]:
    """A vsyncd that caches no records, and its health report once it is ready."""
    async with Application(settings) as application:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{application.port}") as channel:
            reports = health_pb2_grpc.HealthStub(channel).WatchHealth(health.HealthRequest(include_details=True))
            async for report in reports:
                if report.status == health.HEALTHY:
                    break
        yield application, report


async def test_without_a_domain_with_cached_records_redis_only_connects_the_instances(
    empty_database: Database, valkey: ValkeyServer
) -> None:
    """The change feed's tables do not exist then."""
    settings = settings_for(
        empty_database.service_url,
        db_migrate_url=empty_database.owner_url,
        domains="audit",
        redis_url=valkey.url,
        http_listen="127.0.0.1:0",
    )
    with captured_logs() as log:
        async with instance_without_cache(settings) as (application, report):
            assert application.cache is not None
            assert not application.cache.invalidator.is_overdue
            named = {each.name: each for each in report.dependencies}
            assert (named["redis-cache"].status, named["redis-cache"].message) == (health.HEALTHY, "it answers")
            await until(lambda: application._health.sharing._published is not None)  # type: ignore[union-attr]  # there is a REDIS_URL
    assert [line for line in log.named("cache") if "state" in line] == []
