"""Payments whose month was dropped, and payments in backups."""

import json
from pathlib import Path
from typing import Any

import psycopg
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from vsync.payments.v1 import payment_pb2 as pb
from vsyncd.app import Application
from vsyncd.backup.errors import BackupDamaged
from vsyncd.backup.manifest import read_manifest, write_manifest, write_sums
from vsyncd.config import Settings
from vsyncd.domains.payments.repository import PaymentRepository
from vsyncd.domains.registry import load_settings
from vsyncd.jobs.maintenance.maintainer import Maintainer
from vsyncd.postgres.mutations import Mutations

from tests.harness.backups import backups_in, content, elsewhere
from tests.harness.cids import execute, failure_of, rows
from tests.harness.clusters import Database
from tests.harness.payments import BEGIN, a_payment, check_invariants
from tests.harness.serving import reason_of

# Two payments of the same hour in a month of the past, by the time in their ids.
OLD = """
    SELECT vsync.make_partition('payments', '2020_01', vsync.uuid_v7_floor('2020-01-01 00:00Z')::text,
                                vsync.uuid_v7_floor('2020-02-01 00:00Z')::text)"""
INSERT_OLD = """
    INSERT INTO vsync.payments (id, created_at, requested_at, processed_at, amount, correlation_id, processor)
    SELECT id, vsync.uuid_v7_time(id), at, at, 1, 'old-' || n, 'default'
    FROM (SELECT n, timestamptz '2020-01-10 12:00Z' + n * interval '20 minutes' AS at
          FROM generate_series(0, 1) AS n) AS t,
         vsync.uuid_v7(at) AS id"""


async def test_totals_remain_when_a_month_is_dropped(
    payments: Any, application: Application, database: Database, settings: Settings
) -> None:
    execute(database, OLD)
    execute(database, INSERT_OLD)
    await payments.StorePayment(pb.StorePaymentRequest(payment=a_payment(1)))
    summary = pb.GetPaymentsSummaryRequest(processed_from=Timestamp(seconds=1_578_657_600))  # 2020-01-10 12:00
    before = await payments.GetPaymentsSummary(summary)
    part = pb.GetPaymentsSummaryRequest(processed_from=Timestamp(seconds=1_578_657_601))
    assert (await payments.GetPaymentsSummary(part)).total_payments == 2
    given = {"db_migrate_url": database.owner_url, "payment_retention_days": 365}
    maintainer = Maintainer(load_settings(**settings.model_dump() | given), application.database)
    await maintainer.run()
    assert maintainer.done.partitions_dropped == ["payments_2020_01"]
    assert await payments.GetPaymentsSummary(summary) == before
    assert before.total_payments == 3
    assert reason_of(await failure_of(payments.GetPaymentsSummary(part))) == "PAYMENTS_GONE"
    again = pb.StorePaymentRequest(payment=a_payment(2, correlation_id="old-0"))
    assert reason_of(await failure_of(payments.StorePayment(again))) == "CONTENTION"
    repository = PaymentRepository(application.database, Mutations(application.database))
    assert await repository.drop_keys() == 2
    assert await repository.drop_keys() == 0
    assert (await payments.StorePayment(again)).stored
    assert {row["correlation_id"] for row in rows(database, "SELECT * FROM vsync.payment_keys")} == {"order-1", "old-0"}


@pytest.fixture
def stored(database: Database) -> Database:
    """A database with folded and unfolded payments."""
    with psycopg.connect(database.owner) as connection:
        for number in range(6):
            connection.execute(
                "INSERT INTO vsync.payments (requested_at, processed_at, amount, correlation_id, processor)"
                " VALUES (%s, %s, 0.1, %s, 'default')",
                [BEGIN, BEGIN, str(number)],
            )
            if number == 3:
                connection.commit()
                connection.execute("SELECT vsync.fold_payment_totals()")
                connection.commit()
    return database


async def test_a_backup_has_the_digests_of_payments_and_totals(
    stored: Database, empty_database: Database, tmp_path: Path
) -> None:
    backups = backups_in(stored.admin, tmp_path)
    name = backups.create().name
    path = tmp_path / name / "manifest.json"
    digests = json.loads(path.read_bytes())["content"]["digests"]
    assert digests["payments"].startswith("6:")
    assert digests["payment_totals"].startswith("1:")
    elsewhere(backups, empty_database.admin).restore(name)
    assert content(empty_database.admin) == content(stored.admin)
    check_invariants(empty_database)
    settings = load_settings(
        database_url=empty_database.owner_url, domains="payments", grpc_listen="127.0.0.1:0", http_listen="127.0.0.1:0"
    )
    async with Application(settings) as application:
        repository = PaymentRepository(application.database, Mutations(application.database))
        (total,) = await repository.summary(None, None)
        assert (total.payments, str(total.amount)) == (6, "0.6")
        await repository.fold_totals()
        assert await repository.summary(None, None) == [total]
    check_invariants(empty_database)

    manifest = json.loads(path.read_bytes())
    manifest["content"]["digests"]["payments"] = "6:0"
    changed = read_manifest(json.dumps(manifest).encode())
    path.write_bytes(write_manifest(changed))
    (path.parent / "SHA256SUMS").write_bytes(write_sums(changed.files, write_manifest(changed)))
    with pytest.raises(BackupDamaged) as caught:
        backups.verify("latest", restore=True)
    assert caught.value.problems == ("the content of payments differs",)
