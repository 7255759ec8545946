"""VSyncs: the official vector, and what is kept equals a scan and a model after any history."""

import asyncio
import contextlib
from typing import Any
from uuid import UUID, uuid4

import grpc
import psycopg
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vsync.v1 import cid_pb2
from vsync.v1 import reconciliation_pb2 as pb
from vsyncd.postgres.queries import queries

from tests.harness.cids import (
    ISPB,
    Stub,
    a_record,
    cid_of,
    create,
    execute,
    failure_of,
    info_of,
    messages,
    rows,
    until,
)
from tests.harness.clusters import Database
from tests.harness.reconciliation import CPF, Reconciliation, kept, model, served
from tests.harness.serving import fields_of

VECTOR = (
    "28c06eb41c4dc9c3ae114831efcac7446c8747777fca8b145ecd31ff8480ae88",
    "4d4abb9168114e349672b934d16ed201a919cb49e28b7f66a240e62c92ee007f",
    "fce514f84f37934bc8aa0f861e4f7392273d71b9d18e8209d21e4192a7842058",
)
VSYNC = "996fc1dd3b6b14bcf0c9fe8320eb66d7e2a3fd874ccf767b2e939641b1ea8eaf"


INSERT = """
    INSERT INTO vsync.cids (cid, key_type, key_value, ispb, account_number, account_type, tax_id)
    SELECT sha256(n::text::bytea), 1, lpad(n::text, 11, '0'), '12345678', '1', 1, '12345678901'
    FROM generate_series(%s::int, %s) AS n
"""


def fold(database: Database) -> bool:
    """Sum up by hand, beside the service that does it too; whether nothing is left to sum up."""
    rows(database, "SELECT vsync.fold_cid_totals()")
    return not rows(database, "SELECT FROM vsync.cid_totals WHERE NOT folded LIMIT 1")


@pytest.mark.both_versions
async def test_the_directorys_vector(cids: Stub, reconciliation: Reconciliation) -> None:
    records = [a_record(number, cid=cid) for number, cid in enumerate(VECTOR)]
    await cids.BatchCreateCids(cid_pb2.BatchCreateCidsRequest(records=records))
    expected = pb.Vsync(ispb=ISPB, key_type=cid_pb2.KEY_TYPE_CPF, vsync=VSYNC, count=3)
    request = pb.GetVsyncRequest(ispb=ISPB, key_type=cid_pb2.KEY_TYPE_CPF)
    assert (await reconciliation.GetVsync(request)).vsync == expected
    scan = await reconciliation.RecomputeVsync(pb.RecomputeVsyncRequest(ispb=ISPB, key_type=cid_pb2.KEY_TYPE_CPF))
    assert (scan.vsync, scan.kept_vsync, scan.agrees) == (expected, expected, True)


async def test_the_vsync_of_nothing_is_64_zeros(reconciliation: Reconciliation) -> None:
    answer = await reconciliation.ListVsyncs(pb.ListVsyncsRequest(ispb="00000000"))
    assert [(v.ispb, v.key_type, v.vsync, v.count) for v in answer.vsyncs] == [
        ("00000000", key_type, "0" * 64, 0) for key_type in range(1, 6)
    ]
    request = pb.RecomputeVsyncRequest(ispb="00000000", key_type=cid_pb2.KEY_TYPE_EVP)
    scan = await reconciliation.RecomputeVsync(request)
    assert (scan.vsync.vsync, scan.vsync.count, scan.agrees) == ("0" * 64, 0, True)


async def test_every_bad_field_is_named(reconciliation: Reconciliation) -> None:
    for call in (
        reconciliation.GetVsync(pb.GetVsyncRequest(ispb="1")),
        reconciliation.RecomputeVsync(pb.RecomputeVsyncRequest(ispb="1")),
        reconciliation.ListVsyncVerifications(pb.ListVsyncVerificationsRequest(ispb="1")),
    ):
        error = await failure_of(call)
        assert (error.code(), fields_of(error)) == (grpc.StatusCode.INVALID_ARGUMENT, ["ispb", "key_type"])


# -- random histories -------------------------------------------------------------------------------------------------

NUMBERS = st.integers(0, 29)
STEPS = st.one_of(
    st.tuples(st.just("create"), NUMBERS),
    st.tuples(st.just("batch"), st.lists(NUMBERS, min_size=1, max_size=5, unique=True)),
    st.tuples(st.just("import_"), st.lists(NUMBERS, min_size=1, max_size=8, unique=True), st.sampled_from((2, 3))),
    st.tuples(st.just("update"), NUMBERS, st.integers(1000, 1100)),
    st.tuples(st.just("status"), st.lists(NUMBERS, min_size=1, max_size=5, unique=True), st.integers(1, 2)),
    st.tuples(st.just("delete"), NUMBERS),
    st.tuples(st.just("delete many"), st.lists(NUMBERS, min_size=1, max_size=5, unique=True)),
    st.tuples(st.just("by hand"), NUMBERS, st.sampled_from(("commit", "rollback", "savepoint", "crash"))),
    st.tuples(st.just("in two phases"), NUMBERS, st.sampled_from(("COMMIT", "ROLLBACK")), st.booleans()),
    st.tuples(st.just("fold")),
)


class Steps:
    """What a step does."""

    def __init__(self, cids: Stub, database: Database) -> None:
        self._cids = cids
        self._database = database

    async def take(self, step: Any) -> None:
        """One step; what is refused changes nothing."""
        what, *how = step
        try:
            await getattr(self, what.replace(" ", "_"))(*how)
        except grpc.aio.AioRpcError as error:
            if info_of(error).reason not in {
                "CID_EXISTS",
                "KEY_EXISTS",
                "CID_NOT_FOUND",
                "INVALID_FIELD",
                "CONTENTION",
            }:
                raise

    async def create(self, number: int) -> None:
        await self._cids.CreateCid(cid_pb2.CreateCidRequest(record=a_record(number)))

    async def batch(self, numbers: list[int]) -> None:
        await create(self._cids, numbers)

    async def import_(self, numbers: list[int], on_conflict: int) -> None:
        # Another cid for the same keys, so that REPLACE has something to do.
        records = [a_record(number, cid=cid_of(number + 5000)) for number in numbers]
        async for _ in self._cids.ImportCids(messages(str(uuid4()), on_conflict, [(1, records)])):
            pass

    async def update(self, number: int, other: int) -> None:
        request = cid_pb2.UpdateCidRequest(
            key=key_of(number), update=cid_pb2.CidUpdate(cid=cid_of(other)), update_mask=FieldMask(paths=["cid"])
        )
        await self._cids.UpdateCid(request)

    async def status(self, numbers: list[int], status: Any) -> None:
        request = cid_pb2.UpdateSyncStatusRequest(cids=list(map(cid_of, numbers)), sync_status=status)
        await self._cids.UpdateSyncStatus(request)

    async def delete(self, number: int) -> None:
        await self._cids.DeleteCid(cid_pb2.DeleteCidRequest(key=key_of(number)))

    async def delete_many(self, numbers: list[int]) -> None:
        await self._cids.BatchDeleteCids(cid_pb2.BatchDeleteCidsRequest(cids=list(map(cid_of, numbers))))

    async def by_hand(self, number: int, end: str) -> None:
        # The key may be there already, and locks may be taken crosswise: psql says so, and nothing is changed.
        with contextlib.suppress(psycopg.errors.UniqueViolation, psycopg.errors.DeadlockDetected):
            await asyncio.to_thread(by_hand, self._database, number, end)

    async def in_two_phases(self, number: int, end: str, folded: bool) -> None:
        with contextlib.suppress(psycopg.errors.UniqueViolation, psycopg.errors.DeadlockDetected):
            await asyncio.to_thread(in_two_phases, self._database, number, end, folded=folded)

    async def fold(self) -> None:
        await asyncio.to_thread(fold, self._database)


def key_of(number: int) -> cid_pb2.CidKey:
    """The key of `a_record(number)`."""
    return cid_pb2.CidKey(key_value=f"{number:011d}", ispb=ISPB)


def by_hand(database: Database, number: int, end: str) -> None:
    """Somebody with psql: moves a key to another participant and type, changes cids, and may think better of it."""
    key = f"{number:011d}"
    with psycopg.connect(database.owner) as connection:
        connection.execute(
            "UPDATE vsync.cids SET ispb = CASE ispb WHEN %s THEN '87654321' ELSE %s END, cid = sha256(cid)"
            " WHERE key_value = %s",
            (ISPB, ISPB, key),
        )
        if end == "savepoint":
            connection.execute("SAVEPOINT here; DELETE FROM vsync.cids; ROLLBACK TO here")
            connection.execute("UPDATE vsync.cids SET sync_status = 2, synced_at = now() WHERE key_value > %s", (key,))
        if end == "rollback":
            connection.rollback()
        if end == "crash":
            with contextlib.suppress(psycopg.errors.AdminShutdown):
                connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
            connection.close()


# Inserts, updates and deletes at once: of three neighbours one goes, and the others get other cids or come.
MERGE = """
    MERGE INTO vsync.cids AS t USING (
        SELECT n, lpad(n::text, 11, '0') AS key, sha256((n + 9000)::text::bytea) AS cid
        FROM generate_series(%s::int, %s::int) AS n) AS s
    ON t.key_value = s.key AND t.ispb = '12345678'
    WHEN MATCHED AND s.n %% 3 = 0 THEN DELETE
    WHEN MATCHED THEN UPDATE SET cid = s.cid
    WHEN NOT MATCHED THEN INSERT (cid, key_type, key_value, ispb, account_number, account_type, tax_id)
        VALUES (s.cid, 1, s.key, '12345678', '1', 1, '12345678901')
"""


def in_two_phases(database: Database, number: int, end: str, *, folded: bool) -> None:
    """A transaction that outlives its session, whatever is folded in between."""
    name = f"vsync {uuid4()}"
    with psycopg.connect(database.owner, autocommit=True) as connection:
        with connection.transaction():
            connection.execute(MERGE, (number, number + 2))
            connection.execute(f"PREPARE TRANSACTION '{name}'".encode())
        try:
            if folded:
                fold(database)
        finally:
            connection.execute(f"{end} PREPARED '{name}'".encode())


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rounds=st.lists(st.lists(STEPS, min_size=1, max_size=6), min_size=1, max_size=4))
async def test_kept_is_the_truth_after_any_history(
    cids: Stub, reconciliation: Reconciliation, database: Database, rounds: list[list[Any]]
) -> None:
    """The steps of a round go at the same time."""
    for steps in rounds:
        await asyncio.gather(*(Steps(cids, database).take(step) for step in steps))
        truth = model(database)
        assert kept(database) == truth
        for ispb in (ISPB, "87654321"):
            expected = {group: vsync for group, vsync in truth.items() if group[0] == ispb}
            assert await served(reconciliation, ispb) == expected
            request = pb.RecomputeVsyncRequest(ispb=ispb, key_type=cid_pb2.KEY_TYPE_CPF)
            assert (await reconciliation.RecomputeVsync(request)).agrees
        counted = await cids.CountCids(cid_pb2.CountCidsRequest())
        assert counted.total == sum(count for _, count in truth.values())


@pytest.mark.both_versions
async def test_a_snapshot_sees_its_own_vsync_whatever_is_written_and_folded_meanwhile(
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
        # A writer that was there at the fold and commits behind it.
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
def test_a_fold_within_a_transaction_that_writes_loses_nothing(database: Database, others: int) -> None:
    """Its snapshot does not name its own transaction, which may be older than what it has seen."""
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


def test_a_vsync_is_read_past_the_sums_of_dead_folds(database: Database) -> None:
    """As it is read, not only its deltas: of many folds that an old snapshot keeps, the last one's sums are met."""
    explain = b"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + queries("vsyncd.reconciliation", "vsync")["vsyncs"].sql

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
        pages(writer)  # its own look at the catalogs
        assert pages(writer) < 40
    assert kept(database) == model(database)


async def test_a_vsync_is_read_without_meeting_what_old_snapshots_keep(cids: Stub, database: Database) -> None:
    """Of a thousand dead rows none is looked at: pages are what time is made of."""
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


async def test_what_was_changed_past_the_triggers_is_found_and_repaired(
    cids: Stub, reconciliation: Reconciliation, database: Database
) -> None:
    await create(cids, range(20))
    execute(
        database,
        "ALTER TABLE vsync.cids DISABLE TRIGGER USER; DELETE FROM vsync.cids WHERE key_value < '00000000005';"
        "ALTER TABLE vsync.cids ENABLE TRIGGER USER",
    )
    request = pb.RecomputeVsyncRequest(ispb=ISPB, key_type=cid_pb2.KEY_TYPE_CPF)
    scan = await reconciliation.RecomputeVsync(request)
    assert (scan.vsync.count, scan.kept_vsync.count, scan.agrees) == (15, 20, False)
    with psycopg.connect(database.owner) as connection:
        assert connection.execute("SELECT vsync.rebuild_cid_totals()").fetchone() == (1,)
    assert (await reconciliation.RecomputeVsync(request)).agrees
    assert kept(database) == model(database)


async def test_a_rebuild_beside_writers_repairs_exactly_what_was_wrong(cids: Stub, database: Database) -> None:
    await create(cids, range(200))
    execute(
        database,
        "ALTER TABLE vsync.cids DISABLE TRIGGER USER; DELETE FROM vsync.cids WHERE key_value < '00000000005';"
        "ALTER TABLE vsync.cids ENABLE TRIGGER USER",
    )

    def rebuild() -> None:
        execute(database, "SELECT vsync.rebuild_cid_totals()")

    async def write() -> None:
        for first in range(1000, 1200, 10):
            await create(cids, range(first, first + 10))

    await asyncio.gather(write(), write_other(cids), *(asyncio.to_thread(rebuild) for _ in range(4)))
    assert kept(database) == model(database)


async def write_other(cids: Stub) -> None:
    """Beside the writer above."""
    for number in range(2000, 2100):
        await cids.CreateCid(cid_pb2.CreateCidRequest(record=a_record(number)))


async def test_a_database_that_came_from_elsewhere_counts_right(cids: Stub, database: Database) -> None:
    """pg_restore brings the rows of the last fold with another cluster's transaction ids."""
    await create(cids, range(30))
    await until(lambda: fold(database))
    before = rows(database, "SELECT feed FROM vsync.last_fold")[0]["feed"]
    foreign = "INSERT INTO vsync.cid_folds (transaction_id, snapshot, feed) VALUES ('9', '999999999:999999999:', %s)"
    with psycopg.connect(database.owner) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('vsyncd fold_cid_totals \"vsync\"', 0))")
        connection.execute("DELETE FROM vsync.cid_folds")
        connection.execute(foreign, [before])
    await create(cids, range(100, 120))
    assert kept(database) == model(database)
    await until(lambda: rows(database, "SELECT feed FROM vsync.last_fold")[0]["feed"] == before + 1)
    await create(cids, range(200, 220))
    assert kept(database) == model(database)
    assert rows(database, "SELECT DISTINCT feed FROM vsync.cid_events WHERE feed > %s", before)


# -- verifications ----------------------------------------------------------------------------------------------------


def a_verification(result: int, **changes: Any) -> pb.VsyncVerification:
    """One to record."""
    fields: dict[str, Any] = {"ispb": ISPB, "key_type": CPF, "submitted_vsync": VSYNC, "directory_result": result}
    return pb.VsyncVerification(**fields | changes)


async def test_a_verification_says_what_we_hold_and_when_it_last_agreed(
    cids: Stub, reconciliation: Reconciliation, database: Database
) -> None:
    async def record(verification: pb.VsyncVerification, **how: Any) -> pb.VsyncVerification:
        request = pb.RecordVsyncVerificationRequest(verification=verification, **how)
        return (await reconciliation.RecordVsyncVerification(request)).verification

    await create(cids, range(3))
    never = await record(a_verification(pb.DIRECTORY_RESULT_NOK, directory_vsync="F" * 64))
    assert (never.our_vsync.count, never.our_vsync.vsync) == (3, model(database)[ISPB, CPF][0])
    assert (never.directory_vsync, never.submitted_vsync) == ("f" * 64, VSYNC)
    assert not never.HasField("last_ok_at")
    request_id = str(uuid4())
    agreed = await record(a_verification(1, directory_verification_id="v-1"), request_id=request_id)
    assert await record(a_verification(1, directory_verification_id="v-1"), request_id=request_id) == agreed
    other = await record(a_verification(2, key_type=cid_pb2.KEY_TYPE_EVP))
    assert (other.our_vsync.count, other.HasField("last_ok_at")) == (0, False)
    await record(a_verification(2), validate_only=True)
    later = await record(a_verification(2))
    assert (later.last_ok_at, later.actor, later.our_vsync) == (agreed.created_at, "anonymous", never.our_vsync)

    found: list[pb.VsyncVerification] = []
    page = pb.ListVsyncVerificationsRequest(ispb=ISPB, key_type=cid_pb2.KEY_TYPE_CPF, page_size=1)
    while not found or page.page_token:
        answer = await reconciliation.ListVsyncVerifications(page)
        found += answer.verifications
        page.page_token = answer.next_page_token
    assert found == [later, agreed, never]
    wanted = pb.ListVsyncVerificationsRequest(
        ispb=ISPB, key_type=cid_pb2.KEY_TYPE_CPF, directory_result=pb.DIRECTORY_RESULT_NOK
    )
    assert list((await reconciliation.ListVsyncVerifications(wanted)).verifications) == [later, never]
    entry = rows(database, "SELECT * FROM vsync.audit_logs WHERE id = %s", UUID(later.id))[0]
    assert (entry["payload"]["our_count"], entry["payload"]["directory_result"]) == (3, 2)
    with psycopg.connect(database.service) as service, pytest.raises(psycopg.errors.InsufficientPrivilege):
        service.execute("DELETE FROM vsync.vsync_verifications")


async def test_a_bad_verification_names_every_field(reconciliation: Reconciliation) -> None:
    bad = pb.VsyncVerification(submitted_vsync="x", directory_vsync="y", directory_verification_id="z" * 101)
    request = pb.RecordVsyncVerificationRequest(verification=bad, request_id="r")
    error = await failure_of(reconciliation.RecordVsyncVerification(request))
    assert {field.removeprefix("verification.") for field in fields_of(error)} == {
        *("ispb", "key_type", "submitted_vsync", "directory_result", "directory_verification_id", "directory_vsync"),
        "request_id",
    }
    assert info_of(error).reason == "INVALID_FIELD"
