"""Outages and recoveries of the database, as clients and load balancers observe them."""

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2 as standard
from psycopg.conninfo import conninfo_to_dict
from vsync.health.v1 import health_pb2 as pb
from vsyncd.config import Settings
from vsyncd.jobs.migrations import SchemaVersions
from vsyncd.migrate import MigrationTarget, run_migrations

from tests.harness.fault_proxy import FaultProxy
from tests.harness.health import NAMES, Outage, healthy
from tests.harness.serving import settings_for

SERVING = standard.HealthCheckResponse.SERVING
NOT_SERVING = standard.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def postgres(folder: Path) -> Iterator[Outage]:
    """A private database."""
    postgres = Outage(folder / "data")
    postgres.start_now()
    yield postgres
    postgres.stop_now()


@pytest.fixture
def settings(postgres: Outage) -> Settings:
    return settings_for(postgres.url, health_cache_seconds=0)


async def test_an_outage_of_the_database_is_reported_until_it_ends(postgres: Outage, settings: Settings) -> None:
    async with asyncio.timeout(60), healthy(settings) as server:
        watch = server.treasury.WatchHealth(pb.HealthRequest())
        first = await watch.read()
        assert isinstance(first, pb.HealthResponse)
        await server.turns(SERVING)

        await postgres.stop()
        await server.turns(NOT_SERVING)
        gone = await server.treasury.GetHealth(pb.HealthRequest())
        assert (gone.status, gone.dependencies[0].error) == (pb.UNHEALTHY, "connection refused")
        assert gone.dependencies[0].last_success >= first.dependencies[0].last_success
        assert (await server.treasury.GetLiveness(pb.LivenessRequest())).status == pb.HEALTHY
        assert await server.check("liveness") == SERVING

        await postgres.start()
        await server.turns(SERVING)
        back = await server.treasury.GetHealth(pb.HealthRequest(include_details=True))
        assert (back.status, back.dependencies[0].error) == (pb.HEALTHY, "")
        assert back.dependencies[0].config.metadata["last_error_at"] > gone.dependencies[0].last_success

        told = [first.status]
        while told[-1] != pb.HEALTHY or pb.UNHEALTHY not in told:
            news = await watch.read()
            assert isinstance(news, pb.HealthResponse)
            told.append(news.status)
        watch.cancel()


async def test_one_failed_check_does_not_end_readiness(postgres: Outage, settings: Settings) -> None:
    async with asyncio.timeout(60), healthy(settings, interval=60) as server:
        await server.turns(SERVING)
        await postgres.stop()
        assert (await server.treasury.GetHealth(pb.HealthRequest())).status == pb.UNHEALTHY
        assert await server.check("") == SERVING


async def test_health_answers_while_the_database_hangs(postgres: Outage) -> None:
    settings = settings_for(postgres.url, health_cache_seconds=0, health_check_timeout=0.4)
    async with asyncio.timeout(60), healthy(settings) as server:
        await server.turns(SERVING)
        before = (await server.treasury.GetHealth(pb.HealthRequest())).dependencies[0]
        with postgres.frozen():
            for _ in range(8):
                hanging = await server.treasury.GetHealth(pb.HealthRequest())
                (primary,) = hanging.dependencies
                assert (primary.status, primary.error) == (pb.UNHEALTHY, "timeout")
                assert primary.last_success >= before.last_success
            assert (await server.treasury.GetLiveness(pb.LivenessRequest())).status == pb.HEALTHY
            await server.turns(NOT_SERVING)
        await server.turns(SERVING)
        while (await server.treasury.GetHealth(pb.HealthRequest())).status != pb.HEALTHY:
            pass


async def test_a_service_started_before_its_database_becomes_ready(postgres: Outage, settings: Settings) -> None:
    await postgres.stop()
    async with asyncio.timeout(60), healthy(settings) as server:
        assert (await server.treasury.GetHealth(pb.HealthRequest())).status == pb.UNHEALTHY
        assert [await server.check(name) for name in NAMES] == [NOT_SERVING] * 3
        await postgres.start()
        await server.turns(SERVING)


async def test_an_unresponsive_host_is_skipped_although_this_exceeds_a_check(postgres: Outage) -> None:
    """libpq waits DB_CONNECT_TIMEOUT for a host. Checks that each connected again would never reach the next host."""
    place = conninfo_to_dict(postgres.conninfo)
    with socket.create_server(("127.0.0.1", 0)) as hole:
        async with FaultProxy(f"{place['host']}/.s.PGSQL.{place['port']}") as proxy:
            hosts = f"127.0.0.1:{hole.getsockname()[1]},127.0.0.1:{proxy.port}"
            url = f"postgresql://{place['user']}@{hosts}/{place['dbname']}?sslmode=disable"
            settings = settings_for(url, db_connect_timeout=2, health_cache_seconds=0, health_check_timeout=0.4)
            async with asyncio.timeout(60), healthy(settings) as server:
                first = await server.treasury.GetHealth(pb.HealthRequest())
                assert (first.status, first.dependencies[0].error) == (pb.UNHEALTHY, "timeout")
                await server.turns(SERVING)


async def test_an_outdated_schema_is_not_served(postgres: Outage, settings: Settings) -> None:
    async with asyncio.timeout(60), healthy(settings, missing_migrations=SchemaVersions(settings).missing) as server:
        report = await server.treasury.GetHealth(pb.HealthRequest())
        assert (report.status, report.dependencies[0].error) == (pb.UNHEALTHY, "schema out of date")
        assert await server.check("") == NOT_SERVING
        await asyncio.to_thread(run_migrations, MigrationTarget(conninfo=postgres.conninfo))
        await server.turns(SERVING)


async def test_a_shutdown_ends_readiness_first_and_then_the_watches(settings: Settings) -> None:
    async with asyncio.timeout(60), healthy(settings) as server:
        await server.turns(SERVING)
        watches = [server.standard.Watch(standard.HealthCheckRequest(service=name)) for name in (*NAMES, "liveness")]
        assert [(await watch.read()).status for watch in watches] == [SERVING] * 4
        report = server.treasury.WatchHealth(pb.HealthRequest())
        assert await report.read() is not grpc.aio.EOF

        server.monitor.begin_shutdown()
        assert [await server.check(name) for name in NAMES] == [NOT_SERVING] * 3
        assert await server.check("liveness") == SERVING
        for watch in watches[:3]:
            assert (await watch.read()).status == NOT_SERVING
        for stream in watches:
            assert await stream.read() is grpc.aio.EOF
            assert await stream.code() is grpc.StatusCode.OK
        assert not report.done()
        assert (await server.treasury.GetHealth(pb.HealthRequest())).status == pb.HEALTHY
        server.status.set_ready(ready=True)
        assert await server.check("") == NOT_SERVING
