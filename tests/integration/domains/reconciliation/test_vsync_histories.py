"""After any operations on the records the kept VSyncs equal a full scan and a model."""

import asyncio
import contextlib
from typing import Any
from uuid import uuid4

import grpc
import psycopg
from google.protobuf.field_mask_pb2 import FieldMask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vsync.v1 import cid_pb2
from vsync.v1 import reconciliation_pb2 as pb

from tests.harness.cids import ISPB, Stub, a_record, cid_of, create, info_of, messages
from tests.harness.clusters import Database
from tests.harness.reconciliation import Reconciliation, fold, kept, model, served

NUMBERS = st.integers(0, 29)
STEPS = st.one_of(
    st.tuples(st.just("create"), NUMBERS),
    st.tuples(st.just("batch"), st.lists(NUMBERS, min_size=1, max_size=5, unique=True)),
    st.tuples(st.just("import_"), st.lists(NUMBERS, min_size=1, max_size=8, unique=True), st.sampled_from((2, 3))),
    st.tuples(st.just("update"), NUMBERS, st.integers(1000, 1100)),
    st.tuples(st.just("status"), st.lists(NUMBERS, min_size=1, max_size=5, unique=True), st.integers(1, 2)),
    st.tuples(st.just("delete"), NUMBERS),
    st.tuples(st.just("delete many"), st.lists(NUMBERS, min_size=1, max_size=5, unique=True)),
    st.tuples(st.just("with sql"), NUMBERS, st.sampled_from(("commit", "rollback", "savepoint", "crash"))),
    st.tuples(st.just("in two phases"), NUMBERS, st.sampled_from(("COMMIT", "ROLLBACK")), st.booleans()),
    st.tuples(st.just("fold")),
)


class Steps:
    """Executes random operations."""

    def __init__(self, cids: Stub, database: Database) -> None:
        self._cids = cids
        self._database = database

    async def execute(self, step: Any) -> None:
        """Executes one operation. A refused one changes nothing."""
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
        # Other cids for the same keys, so that REPLACE replaces records.
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

    async def with_sql(self, number: int, end: str) -> None:
        # The key may exist already, and locks may deadlock: then the statement fails and changes nothing.
        with contextlib.suppress(psycopg.errors.UniqueViolation, psycopg.errors.DeadlockDetected):
            await asyncio.to_thread(with_sql, self._database, number, end)

    async def in_two_phases(self, number: int, end: str, folded: bool) -> None:
        with contextlib.suppress(psycopg.errors.UniqueViolation, psycopg.errors.DeadlockDetected):
            await asyncio.to_thread(in_two_phases, self._database, number, end, folded=folded)

    async def fold(self) -> None:
        await asyncio.to_thread(fold, self._database)


def key_of(number: int) -> cid_pb2.CidKey:
    """Returns the key of `a_record(number)`."""
    return cid_pb2.CidKey(key_value=f"{number:011d}", ispb=ISPB)


def with_sql(database: Database, number: int, end: str) -> None:
    """Moves a key to another participant and type and changes cids with SQL; may roll back."""
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


# Inserts, updates and deletes in one statement: of three neighbours one is deleted, the others change or are new.
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
    """Executes a prepared transaction, which outlives its session; may fold in between."""
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
async def test_kept_vsyncs_are_correct_after_any_operations(
    cids: Stub, reconciliation: Reconciliation, database: Database, rounds: list[list[Any]]
) -> None:
    """The operations of a round are concurrent."""
    for steps in rounds:
        await asyncio.gather(*(Steps(cids, database).execute(step) for step in steps))
        truth = model(database)
        assert kept(database) == truth
        for ispb in (ISPB, "87654321"):
            expected = {group: vsync for group, vsync in truth.items() if group[0] == ispb}
            assert await served(reconciliation, ispb) == expected
            request = pb.RecomputeVsyncRequest(ispb=ispb, key_type=cid_pb2.KEY_TYPE_CPF)
            assert (await reconciliation.RecomputeVsync(request)).agrees
        counted = await cids.CountCids(cid_pb2.CountCidsRequest())
        assert counted.total == sum(count for _, count in truth.values())
