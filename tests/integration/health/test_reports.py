"""vsync.health.v1 with a healthy database."""

import asyncio
from datetime import datetime
from pathlib import Path

import grpc
import psycopg
import pytest
from grpc_health.v1 import health_pb2 as standard
from psycopg.conninfo import conninfo_to_dict
from vsync.health.v1 import health_pb2 as pb
from vsyncd.embedded import EmbeddedPostgres

from tests.harness.clusters import PASSWORD, SERVICE, Database
from tests.harness.health import healthy
from tests.harness.serving import fields_of, settings_for

DETAILED = pb.HealthRequest(include_details=True)


@pytest.mark.both_versions
async def test_health_reports_each_dependency_with_its_address(database: Database, postgres_version: int) -> None:
    settings = settings_for(database.service_url, db_max_connections=7, health_check_timeout=10)
    async with healthy(settings) as server:
        await server.pool.pool.wait()
        report = await server.treasury.GetHealth(DETAILED)
    assert (report.status, report.liveness.is_alive) == (pb.HEALTHY, True)
    (primary,) = report.dependencies
    assert (primary.name, primary.type, primary.is_critical) == ("postgresql-primary", pb.DATABASE, True)
    assert (primary.status, primary.error) == (pb.HEALTHY, "")
    assert primary.last_success == primary.last_check
    for moment in (report.checked_at, primary.last_check):
        assert datetime.fromisoformat(moment).utcoffset() is not None
        assert moment.endswith("Z")
    config = primary.config
    assert (config.hostname, config.port, config.protocol) == ("localhost", 5432, "postgresql")
    assert (config.database_name, config.schema_name) == (database.name, "vsync")
    assert config.version.split(".")[0] == str(postgres_version)
    since = config.metadata.pop("circuit_breaker_since")
    assert datetime.fromisoformat(since) <= datetime.fromisoformat(report.checked_at)
    breaker = {"circuit_breaker": "closed", "circuit_breaker_trips": "0"}
    counts = {"total_waits": "0", "closed_by_idle_time": "0", "closed_by_lifetime": "0"}
    socket = f"{conninfo_to_dict(database.service_url)['host']}/.s.PGSQL.5432"
    assert config.metadata == {"server_role": "primary", "socket": socket, **breaker, **counts}
    assert report.process.uptime_seconds >= 0
    assert 0 < report.process.memory_bytes <= report.process.memory_limit_bytes
    assert [disk.setting for disk in report.process.disks] == ["SPILL_DIR"]
    assert 0 < report.process.disks[0].free_bytes <= report.process.disks[0].total_bytes
    assert (config.pool_info.max_connections, config.pool_info.active_connections) == (7, 0)
    assert config.pool_info.idle_connections >= 1


async def test_a_report_contains_neither_user_nor_password(database: Database) -> None:
    async with healthy(settings_for(database.service_url)) as server:
        report = str(await server.treasury.GetHealth(DETAILED))
    assert PASSWORD not in report
    assert SERVICE not in report


async def test_without_details_there_is_no_config(database: Database) -> None:
    async with healthy(settings_for(database.service_url)) as server:
        report = await server.treasury.GetHealth(pb.HealthRequest(dependency_filter=["postgresql-primary"] * 2))
    (primary,) = report.dependencies
    assert not primary.HasField("config")
    assert not report.HasField("process")
    assert primary.status == pb.HEALTHY


async def test_an_unknown_dependency_is_an_invalid_argument(database: Database) -> None:
    request = pb.HealthRequest(dependency_filter=["postgresql-primary", "mainframe"])
    async with healthy(settings_for(database.service_url)) as server:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await server.treasury.GetHealth(request)
        assert fields_of(raised.value) == ["dependency_filter[1]"]
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await server.treasury.WatchHealth(request).read()
        assert fields_of(raised.value) == ["dependency_filter[1]"]


async def test_an_exhausted_pool_does_not_make_the_database_unhealthy(database: Database) -> None:
    settings = settings_for(database.service_url, db_max_connections=1, health_cache_seconds=0)
    async with healthy(settings) as server:
        connection = await server.pool.pool.acquire(5)
        report = await server.treasury.GetHealth(DETAILED)
        await server.pool.pool.release(connection)
        pool = report.dependencies[0].config.pool_info
        assert report.status == pb.HEALTHY
        assert (pool.active_connections, pool.idle_connections) == (1, 0)


async def test_concurrent_requests_share_one_connection(database: Database) -> None:
    async with healthy(settings_for(database.service_url, health_cache_seconds=0)) as server:
        reports = await asyncio.gather(*(server.treasury.GetHealth(pb.HealthRequest()) for _ in range(100)))
        assert {report.status for report in reports} == {pb.HEALTHY}
        assert backends(database) == 1
    assert backends(database) == 0


def backends(database: Database) -> int:
    with psycopg.connect(database.admin) as connection:
        row = connection.execute(
            """SELECT count(*) FROM pg_stat_activity
               WHERE application_name = 'vsyncd health' AND datname = current_database()"""
        ).fetchone()
    assert row is not None
    return int(row[0])


async def test_a_result_is_reused_for_the_configured_time(database: Database) -> None:
    settings = settings_for(database.service_url, health_cache_seconds=60)
    async with healthy(settings, interval=60) as server:
        first = await server.treasury.GetHealth(pb.HealthRequest())
        again = await server.treasury.GetHealth(pb.HealthRequest())
    assert first.dependencies[0].last_check == again.dependencies[0].last_check


async def test_a_read_only_server_is_degraded_and_still_served(folder: Path) -> None:
    async with EmbeddedPostgres(folder / "data", settings={"fsync": "off"}) as postgres:
        with psycopg.connect(postgres.conninfo, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
            connection.execute("SELECT pg_reload_conf()")
        async with healthy(settings_for(postgres.conninfo)) as server:
            report = await server.treasury.GetHealth(pb.HealthRequest())
            assert report.status == pb.DEGRADED
            assert "read-only" in report.message
            await server.turns(standard.HealthCheckResponse.SERVING)


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_a_database_that_is_not_utf8_is_unhealthy_and_never_ready(database: Database, encoding: str) -> None:
    name = f"{database.name}_{encoding.lower()}"
    with psycopg.connect(database.admin, dbname="postgres", autocommit=True) as admin:
        admin.execute(
            f"CREATE DATABASE {name} TEMPLATE template0 ENCODING {encoding} LOCALE_PROVIDER libc LOCALE 'C'".encode()
        )
        try:
            async with healthy(settings_for(database.service_url.replace(database.name, name))) as server:
                report = await server.treasury.GetHealth(pb.HealthRequest())
                (primary,) = report.dependencies
                assert (report.status, primary.error) == (
                    pb.UNHEALTHY,
                    f"the encoding of the database is {encoding}, not UTF8",
                )
                assert not server.status.ready
                await server.turns(standard.HealthCheckResponse.NOT_SERVING)
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"user": "nobody_here"}, "authentication failed"),
        ({"dbname": "nothing_here"}, "no such database"),
        ({"host": "/nowhere"}, "connection refused"),
        ({"host": "127.0.0.1", "port": "1"}, "connection refused"),
        ({"host": "nowhere.invalid"}, "host not found"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_an_error_has_a_category_and_no_name(database: Database, changed: dict[str, str], error: str) -> None:
    host = str(conninfo_to_dict(database.admin)["host"])
    parts = {"user": SERVICE, "dbname": database.name, "host": host, "port": "5432"} | changed
    url = f"postgresql://{parts['user']}:{PASSWORD}@/{parts['dbname']}?host={parts['host']}&port={parts['port']}"
    async with healthy(settings_for(url)) as server:
        report = await server.treasury.GetHealth(pb.HealthRequest())
        (primary,) = report.dependencies
        assert (report.status, primary.error) == (pb.UNHEALTHY, error)
        assert primary.last_success == ""
        assert primary.message == f"cannot be used: {error}"
        assert not any(value in str(report) for value in (*changed.values(), PASSWORD) if value != "1")
        assert not server.status.ready


async def test_liveness_reports_the_initialised_components(database: Database) -> None:
    async with healthy(settings_for(database.service_url)) as server:
        alive = await server.treasury.GetLiveness(pb.LivenessRequest())
        assert (alive.status, [check.ready for check in alive.checks]) == (pb.HEALTHY, [True] * 4)
        server.liveness.mark("cache", ready=False, message="warming up")
        dead = await server.treasury.GetLiveness(pb.LivenessRequest())
        assert dead.status == pb.UNHEALTHY
        assert "cache" in dead.message


async def test_a_missing_password_file_has_its_own_error(database: Database, tmp_path: Path) -> None:
    password_file = tmp_path / "password"
    password_file.write_text(PASSWORD)
    url = database.service_url.replace(f":{PASSWORD}@", "@")
    settings = settings_for(url, db_password_file=str(password_file), db_min_connections=0)
    async with healthy(settings, interval=60) as server:
        assert (await server.treasury.GetHealth(pb.HealthRequest())).status == pb.HEALTHY
    async with healthy(settings, interval=60) as server:
        password_file.unlink()
        report = await server.treasury.GetHealth(pb.HealthRequest())
    assert report.dependencies[0].error == "password file cannot be read"
    assert str(tmp_path) not in str(report)
