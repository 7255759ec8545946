"""VSyncs: the official test vector, and correct and fast reads despite old snapshots."""

from typing import Any

import grpc
import psycopg
import pytest
from vsync.v1 import cid_pb2
from vsync.v1 import reconciliation_pb2 as pb
from vsyncd.postgres.queries import queries

from tests.harness.cids import ISPB, Stub, a_record, create, execute, failure_of, rows, until
from tests.harness.clusters import Database
from tests.harness.reconciliation import VECTOR, VSYNC, Reconciliation, fold, kept, model, served
from tests.harness.serving import fields_of

INSERT = """
    INSERT INTO vsync.cids (cid, key_type, key_value, ispb, account_number, account_type, tax_id)
    SELECT sha256(n::text::bytea), 1, lpad(n::text, 11, '0'), '12345678', '1', 1, '12345678901'
    FROM generate_series(%s::int, %s) AS n
"""


@pytest.mark.both_versions
async def test_the_vsync_matches_the_test_vector_of_dict(cids: Stub, reconciliation: Reconciliation) -> None:
    records = [a_record(number, cid=cid) for number, cid in enumerate(VECTOR)]
    await cids.BatchCreateCids(cid_pb2.BatchCreateCidsRequest(records=records))
    expected = pb.Vsync(ispb=ISPB, key_type=cid_pb2.KEY_TYPE_CPF, vsync=VSYNC, count=3)
    request = pb.GetVsyncRequest(ispb=ISPB, key_type=cid_pb2.KEY_TYPE_CPF)
    assert (await reconciliation.GetVsync(request)).vsync == expected
    scan = await reconciliation.RecomputeVsync(pb.RecomputeVsyncRequest(ispb=ISPB, key_type=cid_pb2.KEY_TYPE_CPF))
    assert (scan.vsync, scan.kept_vsync, scan.agrees) == (expected, expected, True)


async def test_the_vsync_of_an_empty_set_is_64_zeros(reconciliation: Reconciliation) -> None:
    answer = await reconciliation.ListVsyncs(pb.ListVsyncsRequest(ispb="00000000"))
    assert [(v.ispb, v.key_type, v.vsync, v.count) for v in answer.vsyncs] == [
        ("00000000", key_type, "0" * 64, 0) for key_type in range(1, 6)
    ]
    request = pb.RecomputeVsyncRequest(ispb="00000000", key_type=cid_pb2.KEY_TYPE_EVP)
    scan = await reconciliation.RecomputeVsync(request)
    assert (scan.vsync.vsync, scan.vsync.count, scan.agrees) == ("0" * 64, 0, True)


async def test_the_error_names_every_bad_field(reconciliation: Reconciliation) -> None:
    for call in (
        reconciliation.GetVsync(pb.GetVsyncRequest(ispb="1")),
        reconciliation.RecomputeVsync(pb.RecomputeVsyncRequest(ispb="1")),
        reconciliation.ListVsyncVerifications(pb.ListVsyncVerificationsRequest(ispb="1")),
    ):
        error = await failure_of(call)
        assert (error.code(), fields_of(error)) == (grpc.StatusCode.INVALID_ARGUMENT, ["ispb", "key_type"])


@pytest.mark.both_versions
async def test_a_snapshot_sees_its_own_vsync_despite_later_writes_and_folds(
    cids: Stub, reconciliation: Reconciliation, database: Database
) -> None:
    await create(cids, range(50))
    query = b"SELECT sum(records), bit_xor(cid_xor)::text FROM vsync.cid_sums"
    scan = b"SELECT count(*), bit_xor(vsync.cid_bits(cid))::text FROM vsync.cids"
    with (
        psycopg.connect(database.admin) as reader,
        psycopg.connect(database.owner) as writer,
    ):
        reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        before = reader.execute(query).fetchone()
        assert before == reader.execute(scan).fetchone()
        # A writer that is open during the fold and commits after it.
        writer.execute("DELETE FROM vsync.cids WHERE key_value < '00000000010'")
        for first in range(100, 160, 20):
            await create(cids, range(first, first + 20))
            await until(lambda: fold(database))
        writer.commit()
        assert reader.execute(query).fetchone() == before
        assert kept(database) == model(database)
        assert await served(reconciliation, ISPB) == model(database)
        await until(lambda: fold(database))
        assert kept(database) == model(database)
        assert await served(reconciliation, ISPB) == model(database)


@pytest.mark.parametrize("others", [0, 5])
def test_a_fold_in_a_writing_transaction_loses_nothing(database: Database, others: int) -> None:
    """Its snapshot does not contain its own transaction id, which may be lower than those it has seen."""
    with psycopg.connect(database.owner) as connection:
        connection.execute(INSERT, (1, 10))
        for number in range(others):
            execute(database, INSERT, 100 + number, 100 + number)
        for first in (20, 30):
            connection.execute("SELECT vsync.fold_cid_totals()")
            connection.execute(INSERT, (first, first + 5))
        if others:
            execute(database, INSERT, 200, 200)
    assert kept(database) == model(database)
    assert fold(database)
    assert kept(database) == model(database)


def test_reading_a_vsync_skips_the_sums_of_earlier_folds(database: Database) -> None:
    """An old snapshot retains the sums of many folds. Only those of the last fold are read."""
    explain = (
        b"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + queries("vsyncd.domains.reconciliation", "vsync")["vsyncs"].sql
    )

    def pages(connection: psycopg.Connection[Any]) -> int:
        row = psycopg.ClientCursor(connection).execute(explain, {"ispb": ISPB, "key_types": [1]}).fetchone()
        assert row is not None
        plan = row[0][0]["Plan"]
        return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])

    execute(database, INSERT, 1, 1)
    with psycopg.connect(database.admin) as old, psycopg.connect(database.owner, autocommit=True) as writer:
        old.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        old.execute("SELECT FROM vsync.cids")
        writer.execute("SET synchronous_commit = off")
        for _ in range(600):
            writer.execute("UPDATE vsync.cids SET cid = sha256(cid)")
            writer.execute("SELECT vsync.fold_cid_totals()")
        # The first query reads the catalogs, and others do after an autovacuum.
        # Reading the sums of all 600 folds takes more than 600 pages.
        assert min(pages(writer) for _ in range(5)) < 200
    assert kept(database) == model(database)


async def test_reading_a_vsync_skips_dead_rows_that_old_snapshots_retain(cids: Stub, database: Database) -> None:
    """None of 1,000 dead rows is read. The number of pages determines the duration."""
    query = (
        "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT sum(records), bit_xor(cid_xor) FROM vsync.cid_deltas"
        " WHERE ispb = '12345678' AND key_type = 1"
    )
    await create(cids, range(10))
    with psycopg.connect(database.admin) as old:
        old.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        old.execute("SELECT FROM vsync.cids")
        with psycopg.connect(database.owner, autocommit=True) as writer:
            for _ in range(1500):
                writer.execute("UPDATE vsync.cids SET cid = sha256(cid) WHERE key_value = '00000000001'")
        await until(lambda: fold(database))
        plan = rows(database, query)[0]["QUERY PLAN"][0]
        assert plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"] < 40
        assert kept(database) == model(database)
