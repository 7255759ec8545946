"""A service with an older or a newer schema."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
import vsync
from grpc_health.v1 import health_pb2, health_pb2_grpc
from psycopg.conninfo import conninfo_to_dict
from vsync.v1 import cid_pb2, server_pb2, sync_batch_pb2
from vsyncd.app import Application
from vsyncd.migrate import (
    Goto,
    MigrationTarget,
    current_versions,
    default_root,
    discover,
    latest_versions,
    run_migrations,
)

from tests.harness.cids import until
from tests.harness.clusters import SERVICE, Database
from tests.harness.fault_proxy import FaultProxy
from tests.harness.logs import captured_logs
from tests.harness.migrations import write_files
from tests.harness.serving import settings_for

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def application(database: Database, **overrides: Any) -> Application:
    given = {"db_auto_migrate": False, "http_listen": "127.0.0.1:0", "shutdown_grace": 1, "health_cache_seconds": 0}
    return Application(settings_for(database.service_url, **(given | overrides)))


async def turns(channel: grpc.aio.Channel, status: int) -> None:
    """Wait until readiness has this status."""
    async with asyncio.timeout(60):
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="readiness"))
        while (await watch.read()).status != status:
            pass
        watch.cancel()


async def test_a_failed_migration_after_a_late_start_of_the_database_is_logged_and_retried(
    empty_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vsyncd.jobs.migrations._PAUSE_S", 0.05)
    write_files(tmp_path, {"vsync/000001_a.up": "SELECT 1 / 0"})
    parts = conninfo_to_dict(empty_database.owner)
    async with FaultProxy(f"{parts['host']}/.s.PGSQL.{parts['port']}") as proxy:
        await proxy.refuse()
        url = f"postgresql://{parts['user']}@127.0.0.1:{proxy.port}/{empty_database.name}"
        overrides = {"db_auto_migrate": True, "db_migrate_path": str(tmp_path), "db_migrate_url": url}
        with captured_logs() as log:
            async with application(empty_database, **overrides):
                assert log.named("the database cannot be migrated now") != []
                await proxy.accept()
                await until(lambda: log.named("the database cannot be migrated") != [])
                (line, *_) = log.named("the database cannot be migrated")
                assert (line["level"], "division by zero" in line["error"]) == ("error", True)
                write_files(tmp_path, {"vsync/000001_a.up": "SELECT 1"})
                await until(lambda: log.named("migrated") != [])
    assert current_versions(empty_database.owner, "vsync") == {"vsync": 1}


@pytest.mark.both_versions
async def test_the_service_is_not_ready_with_an_older_schema(empty_database: Database) -> None:
    target = MigrationTarget(conninfo=empty_database.owner, service_user=SERVICE)
    last = discover()[-1].version
    before = discover()[-2].version
    await asyncio.to_thread(run_migrations, replace(target, sets=("core",)))
    await asyncio.to_thread(run_migrations, target, Goto(before))
    async with application(empty_database) as server:
        address = f"127.0.0.1:{server.port}"
        async with vsync.connect(address) as client, grpc.aio.insecure_channel(address) as channel:
            await turns(channel, NOT_SERVING)
            calls: list[Callable[[], Awaitable[object]]] = [
                lambda: client.cids.CountCids(cid_pb2.CountCidsRequest(ispb="12345678")),
                lambda: client.cids.GetCid(cid_pb2.GetCidRequest(cid="0" * 64)),
                lambda: client.cids.DeleteCid(cid_pb2.DeleteCidRequest(cid="0" * 64)),
                lambda: client.batches.CreateSyncBatch(sync_batch_pb2.CreateSyncBatchRequest(batch_date="2026-11-20")),
            ]
            # The first check may still be running.
            async with asyncio.timeout(60):
                while not server.database.missing_sets:  # noqa: ASYNC110 - the check signals no event
                    await asyncio.sleep(0.02)
            for call in calls:
                with pytest.raises(vsync.SchemaOutOfDateError):
                    await call()
            info = (await client.server.GetServerInfo(server_pb2.GetServerInfoRequest())).info
            assert {each.set: each.version for each in info.schema_versions} == {"core": 1, "vsync": before}

            await asyncio.to_thread(run_migrations, target, Goto(last))
            await turns(channel, SERVING)
            with pytest.raises(vsync.NotFoundError):
                await client.cids.GetCid(cid_pb2.GetCidRequest(cid="0" * 64))


async def test_an_older_service_works_with_a_newer_schema(empty_database: Database, tmp_path: Path) -> None:
    newer = tmp_path / "migrations"
    shutil.copytree(default_root(), newer)
    number = latest_versions()["vsync"] + 1
    (newer / "vsync" / f"{number:06d}_nickname.up.sql").write_text('ALTER TABLE "vsync".cids ADD COLUMN nickname text')
    await asyncio.to_thread(
        run_migrations,
        MigrationTarget(conninfo=empty_database.owner, service_user=SERVICE, root=newer, sets=("core", "vsync")),
    )
    async with application(empty_database, db_auto_migrate=True) as server:
        address = f"127.0.0.1:{server.port}"
        async with vsync.connect(address) as client, grpc.aio.insecure_channel(address) as channel:
            await turns(channel, SERVING)
            info = (await client.server.GetServerInfo(server_pb2.GetServerInfoRequest())).info
            applied = {each.set: each.version for each in info.schema_versions}
            assert applied == latest_versions(sets=("core", "vsync")) | {"vsync": number}
            assert (await client.cids.CountCids(cid_pb2.CountCidsRequest(ispb="12345678"))).total == 0
