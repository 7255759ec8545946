"""Maintenance creates future partitions and drops expired ones, while sessions read and write."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import psycopg
import pytest
from prometheus_client import generate_latest
from psycopg import sql
from vsync.health.v1 import health_pb2 as pb
from vsync.health.v1 import health_pb2_grpc
from vsyncd.app import Application
from vsyncd.config import Settings
from vsyncd.jobs.ledger import JobLedger
from vsyncd.jobs.maintenance.maintainer import Maintainer
from vsyncd.jobs.maintenance.partition_dropper import PartitionDropper
from vsyncd.jobs.maintenance.partitions import Partition, drop_mark
from vsyncd.jobs.runner import JobFailed
from vsyncd.migrate import MigrationTarget, run_migrations
from vsyncd.observability.metrics import REGISTRY

from tests.harness.clusters import SERVICE, Database
from tests.harness.serving import opened, settings_for

OLD = ("2019_12", "2020_01")


def with_old_partitions(database: Database, *names: str) -> None:
    """Create expired partitions with one row each, as the owner."""
    with psycopg.connect(database.owner) as owner:
        for name in names or OLD:
            begins = datetime.strptime(name, "%Y_%m").replace(tzinfo=UTC)
            ends = (begins + timedelta(days=31)).replace(day=1)
            owner.execute(
                "SELECT vsync.make_partition('audit_logs', %(name)s, vsync.uuid_v7_floor(%(begins)s)::text,"
                " vsync.uuid_v7_floor(%(ends)s)::text),"
                " vsync.make_partition('cid_events', %(name)s, %(begins)s::text, %(ends)s::text)",
                {"name": name, "begins": begins, "ends": ends},
            )
            owner.execute("ALTER TABLE vsync.audit_logs DISABLE TRIGGER audit_logs_time")
            owner.execute(
                "INSERT INTO vsync.audit_logs (id, created_at, correlation_id, recorded_by, action)"
                " VALUES (vsync.uuid_v7(%(at)s), %(at)s, 'x', 'x', 'x')",
                {"at": begins},
            )
            owner.execute("ALTER TABLE vsync.audit_logs ENABLE TRIGGER audit_logs_time")


def tables(database: Database) -> set[str]:
    with psycopg.connect(database.owner) as owner:
        rows = owner.execute("SELECT relname FROM pg_class WHERE relnamespace = 'vsync'::regnamespace").fetchall()
    return {row[0] for row in rows}


def settings_of(database: Database, **overrides: Any) -> Settings:
    given = {"db_migrate_url": database.owner_url, "audit_retention_days": 365, "event_retention_days": 365}
    return settings_for(database.service_url, **(given | overrides))


@contextlib.asynccontextmanager
async def maintainer_of(settings: Settings) -> AsyncIterator[Maintainer]:
    async with opened(settings) as pool:
        yield Maintainer(settings, pool)


@pytest.mark.both_versions
async def test_future_partitions_are_created_and_expired_ones_dropped(database: Database) -> None:
    with_old_partitions(database)
    with psycopg.connect(database.owner) as owner:
        owner.execute("SELECT vsync.make_partition('request_ids', '2020_w01', '2019-12-30', '2020-01-06')")
        owner.execute(
            sql.SQL("DROP TABLE vsync.{}").format(
                sql.Identifier(f"audit_logs_{datetime.now(UTC) + timedelta(days=62):%Y_%m}")
            )
        )
    async with maintainer_of(settings_of(database)) as maintainer:
        await maintainer.run()
        done = maintainer.done
        assert done.partitions_made == 1
        assert done.partitions_dropped == sorted(
            [f"{parent}_{name}" for parent in ("audit_logs", "cid_events") for name in OLD] + ["request_ids_2020_w01"]
        )
        assert tables(database) & set(done.partitions_dropped) == set()
        await maintainer.run()
        assert (maintainer.done.partitions_made, maintainer.done.partitions_dropped) == (0, [])
        metrics = generate_latest(REGISTRY).decode()
    assert 'vsyncd_partitions_expired{table="audit_logs"} 0.0' in metrics
    for table in ("audit_logs", "cid_events", "request_ids"):
        assert f'vsyncd_partitions_until_timestamp_seconds{{table="{table}"}}' in metrics


async def test_without_a_retention_nothing_is_dropped(database: Database) -> None:
    with_old_partitions(database)
    async with maintainer_of(settings_of(database, audit_retention_days=0, event_retention_days=0)) as maintainer:
        await maintainer.run()
    assert {f"audit_logs_{name}" for name in OLD} < tables(database)


async def test_the_service_role_creates_partitions_but_cannot_drop_them(database: Database) -> None:
    with_old_partitions(database)
    settings = settings_of(database, db_migrate_url=None)
    async with maintainer_of(settings) as maintainer:
        with pytest.raises(JobFailed, match=r"^4 partitions are past retention, and only the tables' owner"):
            await maintainer.run()
    assert 'vsyncd_partitions_expired{table="audit_logs"} 2.0' in generate_latest(REGISTRY).decode()
    assert {f"audit_logs_{name}" for name in OLD} < tables(database)


async def test_writers_are_not_blocked_while_a_detach_waits_for_readers(database: Database) -> None:
    with_old_partitions(database)
    async with maintainer_of(settings_of(database)) as maintainer:
        async with await psycopg.AsyncConnection.connect(database.owner) as reader:
            await reader.execute("SELECT FROM vsync.audit_logs LIMIT 1")
            running = asyncio.create_task(maintainer.run())
            async with (
                await psycopg.AsyncConnection.connect(database.service, autocommit=True) as writer,
                await psycopg.AsyncConnection.connect(database.admin, autocommit=True) as admin,
            ):
                waiting = (
                    "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
                    " AND query LIKE '%DETACH PARTITION%'"
                )
                async with asyncio.timeout(60):
                    while (await admin.execute(waiting)).rowcount == 0:  # noqa: ASYNC110  in the database
                        await asyncio.sleep(0.02)
                # It does not queue for the lock of the DETACH, which waits until the reader ends.
                await writer.execute("SET statement_timeout = '30s'")
                await writer.execute(
                    "INSERT INTO vsync.audit_logs (correlation_id, recorded_by, action) VALUES ('x', 'x', 'x')"
                )
                await writer.execute("SELECT count(*) FROM vsync.audit_logs")
            assert not running.done()
            await reader.commit()
        async with asyncio.timeout(60):
            await running
        assert len(maintainer.done.partitions_dropped) == 4


async def test_an_interrupted_drop_is_completed_by_the_next_run(database: Database) -> None:
    with_old_partitions(database)
    async with (
        maintainer_of(settings_of(database)) as maintainer,
        await psycopg.AsyncConnection.connect(database.owner, autocommit=True) as owner,
    ):
        async with await psycopg.AsyncConnection.connect(database.owner) as reader:
            await reader.execute("SELECT FROM vsync.audit_logs LIMIT 1")
            await owner.execute("SET statement_timeout = '100ms'")
            with pytest.raises(psycopg.errors.QueryCanceled):
                await owner.execute(
                    "ALTER TABLE vsync.audit_logs DETACH PARTITION vsync.audit_logs_2019_12 CONCURRENTLY"
                )
        # One is detached and marked, but not dropped; another was detached by an operator, without a mark.
        await owner.execute("RESET statement_timeout")
        for name in OLD:
            await owner.execute(f"ALTER TABLE vsync.cid_events DETACH PARTITION vsync.cid_events_{name}".encode())
        await mark(owner, "cid_events", "2019_12")
        snapshot = await maintainer.watch.snapshot()
        assert [partition.name for partition in snapshot.partitions if partition.is_detaching] == ["audit_logs_2019_12"]
        await maintainer.run()
        assert maintainer.done.partitions_dropped == ["audit_logs_2019_12", "audit_logs_2020_01", "cid_events_2019_12"]
    assert "cid_events_2020_01" in tables(database)


async def mark(owner: psycopg.AsyncConnection, parent: str, month: str) -> None:
    """Mark a partition as one that vsyncd is dropping."""
    begins = datetime.strptime(month, "%Y_%m").replace(tzinfo=UTC)
    partition = Partition(parent, f"{parent}_{month}", begins, begins + timedelta(days=31))
    comment = sql.SQL("COMMENT ON TABLE {} IS {}").format(sql.Identifier("vsync", partition.name), drop_mark(partition))
    await owner.execute(comment)


async def test_a_detached_partition_is_dropped_even_if_no_other_has_expired(database: Database) -> None:
    with_old_partitions(database, "2019_12")
    async with (
        maintainer_of(settings_of(database)) as maintainer,
        await psycopg.AsyncConnection.connect(database.owner, autocommit=True) as owner,
    ):
        for parent in ("audit_logs", "cid_events"):
            detach = f"ALTER TABLE vsync.{parent} DETACH PARTITION vsync.{parent}_2019_12"
            await owner.execute(detach.encode())
            await mark(owner, parent, "2019_12")
        await maintainer.run()
    assert maintainer.done.partitions_dropped == ["audit_logs_2019_12", "cid_events_2019_12"]


async def test_a_detached_partition_is_kept_if_the_retention_was_extended(database: Database) -> None:
    with_old_partitions(database, "2019_12")
    settings = settings_of(database, audit_retention_days=0)
    async with (
        maintainer_of(settings) as maintainer,
        await psycopg.AsyncConnection.connect(database.owner, autocommit=True) as owner,
    ):
        await owner.execute("ALTER TABLE vsync.audit_logs DETACH PARTITION vsync.audit_logs_2019_12")
        await mark(owner, "audit_logs", "2019_12")
        await maintainer.run()
    assert maintainer.done.partitions_dropped == ["cid_events_2019_12"]
    assert "audit_logs_2019_12" in tables(database)


async def test_a_failed_detach_removes_the_mark(database: Database) -> None:
    with_old_partitions(database, "2019_12")
    # PostgreSQL cannot detach concurrently from a table with a default partition.
    with psycopg.connect(database.owner) as owner:
        owner.execute("CREATE TABLE vsync.audit_logs_other PARTITION OF vsync.audit_logs DEFAULT")
    async with maintainer_of(settings_of(database)) as maintainer:
        with pytest.raises(JobFailed, match="audit_logs_2019_12: "):
            await maintainer.run()
        with psycopg.connect(database.owner) as owner:
            owner.execute("DROP TABLE vsync.audit_logs_other")
            owner.execute("ALTER TABLE vsync.audit_logs DETACH PARTITION vsync.audit_logs_2019_12")
        await maintainer.run()
    assert maintainer.done.partitions_dropped == []
    assert "audit_logs_2019_12" in tables(database)


async def test_a_failed_drop_is_reported_and_does_not_prevent_the_others(database: Database) -> None:
    with_old_partitions(database)
    missing = Partition("audit_logs", "audit_logs_1999_01", datetime.now(UTC), datetime.now(UTC))
    async with await psycopg.AsyncConnection.connect(database.owner, autocommit=True) as owner:
        dropper = PartitionDropper(owner, schema="vsync")
        there = Partition("audit_logs", "audit_logs_2020_01", datetime.now(UTC), datetime.now(UTC))
        assert await dropper.may_drop([there])
        dropped, failed = await dropper.drop([missing, there])
    assert dropped == ["audit_logs_2020_01"]
    assert failed == {"audit_logs_1999_01": "UndefinedTable (42P01)"}


async def test_a_failed_connection_as_the_owner_is_reported_without_the_password(database: Database) -> None:
    with_old_partitions(database)
    settings = settings_of(database, db_migrate_url="postgresql://owner:hunter2@127.0.0.1:1/vsync")
    async with maintainer_of(settings) as maintainer:
        with pytest.raises(JobFailed, match="partitions could not be dropped") as failure:
            await maintainer.run()
    assert "hunter2" not in str(failure.value)


async def test_stored_answers_of_old_imports_are_deleted(database: Database) -> None:
    with psycopg.connect(database.owner) as owner:
        owner.execute(
            "INSERT INTO vsync.imports (import_id, actor, on_conflict, initial_sync_status, updated_at)"
            " VALUES ('00000000-0000-0000-0000-000000000001', 'a', 1, 1, now() - interval '8 days'),"
            " ('00000000-0000-0000-0000-000000000002', 'a', 1, 1, now() - interval '6 days')"
        )
        owner.execute(
            "INSERT INTO vsync.import_chunks SELECT import_id, n, decode(repeat('00', 16), 'hex'), ''"
            " FROM vsync.imports, generate_series(1, 6000) AS n"
        )
    async with maintainer_of(settings_of(database)) as maintainer:
        await maintainer.run()
        assert maintainer.done.chunks_pruned == 6000
    with psycopg.connect(database.owner) as owner:
        left = owner.execute("SELECT import_id::text, count(*) FROM vsync.import_chunks GROUP BY 1").fetchall()
        assert left == [("00000000-0000-0000-0000-000000000002", 6000)]
        assert owner.execute("SELECT count(*) FROM vsync.imports").fetchone() == (2,)
    async with maintainer_of(settings_of(database, import_retention_days=0)) as maintainer:
        await maintainer.run()
        assert maintainer.done.chunks_pruned == 0


async def test_partitions_that_end_soon_are_reported_before_a_write_fails(database: Database) -> None:
    with psycopg.connect(database.owner) as owner:
        rows = owner.execute(
            "SELECT partition FROM vsync.partitions() WHERE parent = 'request_ids' AND begins > now()"
        ).fetchall()
        for (name,) in rows:
            owner.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier("vsync", name)))
    settings = settings_of(database)
    async with maintainer_of(settings) as maintainer:
        await maintainer.watch.snapshot()
        assert maintainer.watch.warning()
        await maintainer.run()
        assert not maintainer.watch.warning()


async def test_an_empty_registry_of_partitioned_tables_is_reported(database: Database) -> None:
    """As on a logical subscriber that replicates `cids` only, to a copy of the schema."""
    with psycopg.connect(database.owner) as owner:
        owner.execute("CREATE TEMPORARY TABLE registered AS TABLE vsync.partitioned_tables")
        owner.execute("DELETE FROM vsync.partitioned_tables")
        owner.commit()
        async with maintainer_of(settings_of(database)) as maintainer:
            for work in (maintainer.watch.snapshot, maintainer.run):
                with pytest.raises(JobFailed, match=r"^no partitioned table is registered: copy the rows"):
                    await work()
            assert "partitioned_tables" in maintainer.watch.warning()
            owner.execute("INSERT INTO vsync.partitioned_tables TABLE registered")
            owner.commit()
            await maintainer.run()
            assert not maintainer.watch.warning()


async def test_a_new_service_runs_the_maintenance_immediately(empty_database: Database) -> None:
    run_migrations(MigrationTarget(conninfo=empty_database.owner, service_user=SERVICE))
    with psycopg.connect(empty_database.owner) as owner:
        owner.execute("SELECT vsync.make_partition('request_ids', '2020_w01', '2019-12-30', '2020-01-06')")
    settings = settings_of(empty_database, db_auto_migrate=False, http_listen="127.0.0.1:0")
    async with Application(settings) as application, asyncio.timeout(60):
        ledger = JobLedger(application.database)
        while (await ledger.find("maintain")).last_succeeded is None:  # noqa: ASYNC110  in the database
            await asyncio.sleep(0.02)
    assert "request_ids_2020_w01" not in tables(empty_database)


async def test_partitions_that_end_soon_degrade_the_health(database: Database) -> None:
    with psycopg.connect(database.owner) as owner:
        owner.execute(f"REVOKE EXECUTE ON FUNCTION vsync.make_partitions() FROM {SERVICE}".encode())
        # The week that begins then ends within 14 days, the limit of the warning, on every weekday.
        rows = owner.execute(
            "SELECT partition FROM vsync.partitions() WHERE begins > now() + interval '6 days'"
        ).fetchall()
        for (name,) in rows:
            owner.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier("vsync", name)))
    settings = settings_of(database, db_auto_migrate=False, http_listen="127.0.0.1:0", health_cache_seconds=0)
    async with (
        Application(settings) as application,
        grpc.aio.insecure_channel(f"127.0.0.1:{application.port}") as channel,
        asyncio.timeout(60),
    ):
        stub: health_pb2_grpc.HealthAsyncStub = health_pb2_grpc.HealthStub(channel)
        while (report := await stub.GetHealth(pb.HealthRequest())).status != pb.DEGRADED:  # noqa: ASYNC110  the next look
            await asyncio.sleep(0.05)
    assert re.fullmatch(
        r"postgresql-primary: its partitions end on \d{4}-\d\d-\d\d: run vsyncd maintain", report.message
    )


async def test_the_health_report_has_the_end_of_the_partitions(channel: grpc.aio.Channel) -> None:
    stub: health_pb2_grpc.HealthAsyncStub = health_pb2_grpc.HealthStub(channel)
    async with asyncio.timeout(60):
        while True:
            report = await stub.GetHealth(pb.HealthRequest(include_details=True))
            metadata = report.dependencies[0].config.metadata
            if "partitions_until" in metadata:
                break
            await asyncio.sleep(0.05)
    assert datetime.fromisoformat(metadata["partitions_until"]) > datetime.now(UTC) + timedelta(days=40)
    assert report.status == pb.HEALTHY


async def test_a_registered_table_of_any_domain_is_maintained(database: Database) -> None:
    with psycopg.connect(database.owner) as owner:
        owner.execute(
            "CREATE TABLE vsync.notes (at timestamptz PRIMARY KEY) PARTITION BY RANGE (at);"
            "SELECT vsync.register_partitioned_table('notes', 'week', retention_days => 30);"
        )
        owner.execute("SELECT vsync.make_partition('notes', '2020_w01', '2019-12-30', '2020-01-06')")
        row = owner.execute(
            "SELECT min(partition) FROM vsync.partitions() WHERE parent = 'notes' AND begins > now()"
        ).fetchone()
        assert row is not None
        owner.execute(sql.SQL("DROP TABLE {}").format(sql.Identifier("vsync", row[0])))
    async with maintainer_of(settings_of(database)) as maintainer:
        await maintainer.run()
        assert maintainer.done.partitions_made == 1
        assert maintainer.done.partitions_dropped == ["notes_2020_w01"]
    assert 'vsyncd_partitions_until_timestamp_seconds{table="notes"}' in generate_latest(REGISTRY).decode()
