"""Shadow evaluations in operation: two instances, lost commits, backups, restores and retention."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from vsync.shadow.v1 import shadow_pb2 as pb
from vsync.shadow.v1 import shadow_pb2_grpc
from vsyncd.app import Application
from vsyncd.backup.inspection import summarize_content
from vsyncd.core.ids import ceiling_at
from vsyncd.domains.shadow.repository import EvaluationRepository
from vsyncd.jobs.maintenance.maintainer import Maintainer
from vsyncd.postgres.database import Database as Pool

from tests.harness.backups import backups_in, content, drop
from tests.harness.cids import a_request_id, rows
from tests.harness.clusters import Database
from tests.harness.cutting_proxy import cutting_proxy
from tests.harness.serving import settings_for
from tests.harness.shadow import CANDIDATE, Stub, an_evaluation, around_now, record_all, search_all

DIGESTS = {"evaluations", "evaluation_rollups"}


def shadow_settings(url: str, **overrides: Any) -> Any:
    given = {"domains": "shadow", "db_auto_migrate": False, "http_listen": "127.0.0.1:0", "shutdown_grace": 1}
    return settings_for(url, **given | overrides)


async def stub_of(application: Application, stack: AsyncExitStack) -> Stub:
    channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{application.port}"))
    return shadow_pb2_grpc.ShadowServiceStub(channel)


@pytest.fixture
async def instances(database: Database) -> AsyncIterator[list[Stub]]:
    """Two instances of vsyncd with one database."""
    async with AsyncExitStack() as stack:
        settings = shadow_settings(database.service_url)
        applications = [await stack.enter_async_context(Application(settings)) for _ in range(2)]
        yield [await stub_of(application, stack) for application in applications]


async def test_two_instances_store_each_evaluation_once(instances: list[Stub], database: Database) -> None:
    evaluations = [an_evaluation({"a": 1}, {"a": number % 2}) for number in range(40)]
    requests = [pb.RecordEvaluationRequest(evaluation=each, request_id=a_request_id()) for each in evaluations]
    answers = await asyncio.gather(
        *(instance.RecordEvaluation(request) for request in requests for instance in instances)
    )
    # The same request is answered alike by both instances, and takes effect once.
    assert all(answer.recorded for answer in answers)
    repeats = await asyncio.gather(
        *(instance.RecordEvaluation(pb.RecordEvaluationRequest(evaluation=evaluations[0])) for instance in instances)
    )
    assert not any(answer.recorded for answer in repeats)
    for instance in instances:
        (page,) = await search_all(instance, candidate=CANDIDATE, diverged=True)
        assert len(page) == 20
        summary = await instance.GetDivergenceSummary(
            pb.GetDivergenceSummaryRequest(candidate=CANDIDATE, **around_now())
        )
        assert (summary.evaluations, summary.diverged) == (40, 20)
    (entries,) = rows(database, "SELECT count(*)::int AS n FROM vsync.audit_logs")
    assert entries["n"] == 40


@pytest.mark.parametrize("method", ["RecordEvaluation", "RecordEvaluations"])
async def test_an_evaluation_whose_commit_was_lost_is_stored_once(database: Database, method: str) -> None:
    insert = b"json_to_recordset"
    sent, request_id = an_evaluation(), a_request_id()
    request: Any = (
        pb.RecordEvaluationRequest(evaluation=sent, request_id=request_id)
        if method == "RecordEvaluation"
        else pb.RecordEvaluationsRequest(evaluations=[sent], request_id=request_id)
    )
    with cutting_proxy(database) as proxy:
        async with AsyncExitStack() as stack:
            application = await stack.enter_async_context(Application(shadow_settings(proxy.url)))
            shadow = await stub_of(application, stack)
            proxy.cut_after(insert if method == "RecordEvaluation" else b"COMMIT", after=insert)
            answer = await getattr(shadow, method)(request)
    assert proxy.cuts == 1
    assert answer.recorded if method == "RecordEvaluation" else answer.evaluations[0].recorded
    (found,) = rows(
        database,
        "SELECT (SELECT count(*) FROM vsync.evaluations) AS stored, (SELECT count(*) FROM vsync.audit_logs) AS audited,"
        " (SELECT sum(evaluations)::int FROM vsync.evaluation_hours) AS counted",
    )
    assert found == {"stored": 1, "audited": 1, "counted": 1}


async def test_a_backup_has_a_digest_of_the_evaluations_and_is_restored(
    shadow: Stub, repository: EvaluationRepository, database: Database, tmp_path: Path
) -> None:
    await record_all(shadow, [an_evaluation({"a": 1}, {"a": number}) for number in range(3)])
    await repository.fold_rollups()
    await record_all(shadow, [an_evaluation()])
    backups = backups_in(database.admin, tmp_path)
    backup = await asyncio.to_thread(backups.create)
    assert backup.manifest is not None
    digests = backup.manifest.content.digests
    assert digests.keys() >= DIGESTS
    restored = f"{database.name}_restored"
    try:
        await asyncio.to_thread(backups.restore, backup.name, target=restored)
        conninfo = psycopg.conninfo.make_conninfo(database.admin, dbname=restored)
        assert content(conninfo) == content(database.admin)
        # The rollups of the restored database continue.
        with psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute("SELECT vsync.fold_evaluation_rollups()")
            (counted,) = connection.execute("SELECT sum(evaluations)::int FROM vsync.evaluation_hours").fetchall()
            assert counted == (4,)
            connection.execute("SET session_replication_role = replica")
            connection.execute("UPDATE vsync.evaluations SET shadow_latency_us = shadow_latency_us + 1 WHERE diverged")
            changed = summarize_content(connection, "vsync").digests
            assert {name for name in DIGESTS if changed[name] != digests[name]} == DIGESTS
    finally:
        await asyncio.to_thread(drop, database.admin, restored)


async def test_whole_months_are_dropped_after_the_retention(database: Database, pool: Pool) -> None:
    begin = (datetime.now(UTC) - timedelta(days=100)).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    end = (begin + timedelta(days=32)).replace(day=1)
    with psycopg.connect(database.owner, autocommit=True) as connection:
        for table, bounds in (
            ("evaluations", (ceiling_at(begin), ceiling_at(end))),
            ("evaluation_rollups", (begin, end)),
        ):
            connection.execute(
                "SELECT vsync.make_partition(%s, %s, %s, %s)", [table, f"{begin:%Y_%m}", *map(str, bounds)]
            )
    for days, expected in ((0, []), (200, []), (31, ["evaluation_rollups", "evaluations"])):
        settings = shadow_settings(database.service_url, shadow_retention_days=days, db_migrate_url=database.owner_url)
        maintainer = Maintainer(settings, pool)
        await maintainer.run()
        assert maintainer.done.partitions_dropped == [f"{table}_{begin:%Y_%m}" for table in expected]
