"""The status transitions and counts of a batch from its creation to its completion."""

import asyncio
from datetime import UTC, date, datetime
from uuid import UUID, uuid4

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from vsync.v1 import sync_batch_pb2 as pb
from vsyncd.core.context import RequestContext
from vsyncd.core.errors import Internal
from vsyncd.core.scope import ALL
from vsyncd.domains.sync_batches.repository import SyncBatchRepository
from vsyncd.domains.sync_batches.transitions import SyncBatchTransitions
from vsyncd.postgres.database import Database as Pool
from vsyncd.postgres.mutations import Mutation, Mutations

from tests.integration.domains.sync_batches.batches import (
    DAY,
    ISPB,
    OTHER_ISPB,
    Batches,
    Refusal,
    Store,
    cids_of,
    forbidden,
    refusal,
)

PENDING, STARTING, RUNNING = pb.SYNC_BATCH_STATUS_PENDING, pb.SYNC_BATCH_STATUS_STARTING, pb.SYNC_BATCH_STATUS_RUNNING
COMPLETED, FAILED = pb.SYNC_BATCH_STATUS_COMPLETED, pb.SYNC_BATCH_STATUS_FAILED
START, RETRY = "vsync.v1.SyncBatchService/StartSyncBatch", "vsync.v1.SyncBatchService/RetrySyncBatch"
NO_BATCH = pb.SyncBatch(id="01900000-0000-7000-8000-000000000000")

STREAM_OF_CIDS = """
CREATE FUNCTION "vsync".more() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO "vsync".cids (id, created_at, cid, key_type, key_value, ispb, account_number, account_type, tax_id)
    SELECT id, "vsync".uuid_v7_time(id), sha256(id::text::bytea), 5, gen_random_uuid()::text, '12345678', '1', 1,
           '11122233300'
    FROM (SELECT "vsync".uuid_v7(clock_timestamp()) AS id FROM generate_series(1, 10)) AS ids;
    RETURN NULL;
END $$"""


def mutation(request_id: UUID | None = None, call: RequestContext | None = None) -> Mutation:
    """Returns a mutation like the service's."""
    return Mutation(
        request_id=request_id, fingerprint=bytes(16), call=call or RequestContext(method=START, correlation_id="-")
    )


async def created(pool: Pool) -> UUID:
    """Creates a batch of all participants. Returns its id."""
    repository = SyncBatchRepository(pool, Mutations(pool))
    return (await repository.create(mutation(), batch_date=date(2026, 11, 3), ispb="", scope=ALL)).id


@pytest.mark.both_versions
async def test_a_batch_from_creation_to_completion(batches: Batches, store: Store) -> None:
    cids = store.add_cids(5)
    created = await batches.create()
    assert (created.status, created.batch_date, created.ispb, created.revision) == (PENDING, DAY, "", 1)
    assert not created.HasField("started_at")

    started = await batches.start(created)
    assert (started.status, started.total_records, started.leased_records) == (RUNNING, 5, 0)
    assert started.started_at.ToDatetime(UTC) <= datetime.now(UTC)
    assert started.revision == 3

    claim = await batches.claim(started)
    assert sorted(cids_of(claim)) == sorted(cids)
    leased = await batches.get(started)
    assert leased.leased_records == 5
    assert leased.oldest_lease_expires_at == claim.lease_expires_at

    assert await batches.report(claim.claim_token, synced=cids[:3], failed=cids[3:]) == ["APPLIED"] * 5
    completed = await batches.complete(started)
    assert completed.status == COMPLETED
    assert (completed.total_records, completed.synced_records, completed.failed_records) == (5, 3, 2)
    assert (completed.skipped_records, completed.leased_records, completed.revision) == (0, 0, 4)
    assert completed.HasField("completed_at")
    assert completed == await batches.get(completed)
    assert store.statuses(cids) == [(2, None)] * 3 + [(3, "the directory said no")] * 2


async def test_a_batch_without_records_completes(batches: Batches) -> None:
    batch = await batches.running()
    assert batch.total_records == 0
    claim = await batches.claim(batch)
    assert (list(claim.records), claim.claim_token, claim.HasField("lease_expires_at")) == ([], "", False)
    assert (await batches.complete(batch)).status == COMPLETED


async def test_a_second_batch_of_a_day_is_refused_with_the_id_of_the_first(batches: Batches) -> None:
    batch = await batches.create(ispb=ISPB)
    there = await refusal(batches.create(ispb=ISPB))
    assert there == (
        grpc.StatusCode.ALREADY_EXISTS,
        "BATCH_EXISTS",
        {"existing_id": batch.id, "revision": "1"},
        [],
    )
    assert (await batches.create(ispb=OTHER_ISPB)).id != batch.id


@pytest.mark.parametrize(("first", "second"), [("", ISPB), (ISPB, ""), (ISPB, ISPB)])
async def test_a_batch_cannot_contain_cids_that_are_leased_under_a_failed_batch(
    batches: Batches, store: Store, first: str, second: str
) -> None:
    store.add_cids(4)
    failed = await batches.running("2026-11-01", first)
    other = await batches.create("2026-11-02", OTHER_ISPB) if first else None
    claims = [await batches.claim(failed, 2, seconds=seconds) for seconds in (300, 600)]
    await batches.fail(failed)
    if other and second:  # a batch of another participant may run
        assert (await batches.start(other)).status == RUNNING
    elif other:
        await batches.fail(other)

    answer = await refusal(batches.create("2026-11-03", second))
    assert answer[:2] == (grpc.StatusCode.FAILED_PRECONDITION, "BATCH_OVERLAPS")
    assert answer.metadata["failed_id"] == failed.id
    assert "open_id" not in answer.metadata
    until = Timestamp()
    until.FromJsonString(answer.metadata["leased_until"])
    assert until == claims[1].lease_expires_at

    await batches.release(claims[1].claim_token)
    answer = await refusal(batches.create("2026-11-03", second))
    until.FromJsonString(answer.metadata["leased_until"])
    assert until == claims[0].lease_expires_at
    store.end_lease(claims[0].claim_token)
    assert (await batches.create("2026-11-03", second)).status == PENDING


async def test_leases_of_another_batch_but_not_its_own_prevent_a_retry(batches: Batches, store: Store) -> None:
    store.add_cids(4)
    first = await batches.running("2026-11-01")
    await batches.fail(first)
    second = await batches.running("2026-11-02")
    claim = await batches.claim(second, 2)
    await batches.fail(second)
    answer = await refusal(batches.retry(first))
    assert (answer.reason, answer.metadata["failed_id"]) == ("BATCH_OVERLAPS", second.id)
    assert (await batches.retry(second)).leased_records == 2
    await batches.fail(second)
    store.end_lease(claim.claim_token)
    assert (await batches.retry(first)).status == RUNNING


@pytest.mark.parametrize(("first", "second"), [("", ISPB), (ISPB, ""), (ISPB, ISPB)])
async def test_two_open_batches_cannot_share_cids(batches: Batches, first: str, second: str) -> None:
    batch = await batches.create("2026-11-02", first)
    overlap = Refusal(grpc.StatusCode.FAILED_PRECONDITION, "BATCH_OVERLAPS", {"open_id": batch.id}, [])
    assert await refusal(batches.create("2026-11-03", second)) == overlap
    await batches.start(batch)
    assert await refusal(batches.create("2026-11-03", second)) == overlap
    await batches.complete(batch)
    await batches.create("2026-11-03", second)


async def test_one_of_many_concurrent_overlapping_creations_succeeds(batches: Batches) -> None:
    days = [f"2026-10-{day:02}" for day in range(1, 21)]
    outcomes = await asyncio.gather(*(batches.create(day) for day in days), return_exceptions=True)
    assert sum(isinstance(outcome, pb.SyncBatch) for outcome in outcomes) == 1


async def test_get_by_id_and_by_key(batches: Batches) -> None:
    batch = await batches.create(ispb=ISPB)
    request = pb.GetSyncBatchRequest(key=pb.SyncBatchKey(ispb=ISPB, batch_date=DAY))
    assert (await batches.stub.GetSyncBatch(request)).batch == batch == await batches.get(batch)
    for missing in (
        pb.GetSyncBatchRequest(id=NO_BATCH.id),
        pb.GetSyncBatchRequest(key=pb.SyncBatchKey(batch_date=DAY)),
        pb.GetSyncBatchRequest(key=pb.SyncBatchKey(ispb=ISPB, batch_date="2026-11-04")),
    ):
        answer = await refusal(batches.stub.GetSyncBatch(missing))
        assert (answer.code, answer.reason) == (grpc.StatusCode.NOT_FOUND, "BATCH_NOT_FOUND")


async def test_all_calls_on_an_unknown_batch_fail_with_not_found(batches: Batches) -> None:
    for call in (batches.start, batches.claim, batches.complete, batches.fail, batches.retry):
        answer = await refusal(call(NO_BATCH))
        assert (answer.code, answer.reason) == (grpc.StatusCode.NOT_FOUND, "BATCH_NOT_FOUND")


async def test_a_forbidden_transition_names_both_statuses(batches: Batches, store: Store) -> None:
    store.add_cids(2)
    batch = await batches.create()
    assert await refusal(batches.claim(batch)) == forbidden("PENDING", "RUNNING")
    assert await refusal(batches.complete(batch)) == forbidden("PENDING", "COMPLETED")
    assert await refusal(batches.retry(batch)) == forbidden("PENDING", "RUNNING")
    await batches.start(batch)
    assert await refusal(batches.retry(batch)) == forbidden("RUNNING", "RUNNING")
    claim = await batches.claim(batch)
    token, cids = claim.claim_token, cids_of(claim)
    await batches.fail(batch)
    assert await refusal(batches.fail(batch)) == forbidden("FAILED", "FAILED")
    assert await refusal(batches.start(batch)) == forbidden("FAILED", "STARTING")
    assert await refusal(batches.complete(batch)) == forbidden("FAILED", "COMPLETED")
    assert await refusal(batches.claim(batch)) == forbidden("FAILED", "RUNNING")
    assert await refusal(batches.report(token, cids)) == forbidden("FAILED", "RUNNING")
    assert await refusal(batches.extend(token)) == forbidden("FAILED", "RUNNING")
    await batches.retry(batch)
    await batches.report(token, cids)
    await batches.complete(batch)
    assert await refusal(batches.start(batch)) == forbidden("COMPLETED", "STARTING")
    assert await refusal(batches.fail(batch)) == forbidden("COMPLETED", "FAILED")
    assert await refusal(batches.report(token, cids)) == forbidden("COMPLETED", "RUNNING")
    assert await batches.release(token) == 0


async def test_a_batch_with_open_records_cannot_be_completed(batches: Batches, store: Store) -> None:
    cids = store.add_cids(4)
    batch = await batches.running()
    claim = await batches.claim(batch)
    await batches.report(claim.claim_token, synced=cids[:2], failed=cids[2:3])
    assert await refusal(batches.complete(batch)) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "BATCH_INCOMPLETE",
        {"total": "4", "synced": "2", "failed": "1", "skipped": "0"},
        [],
    )


async def test_starting_a_running_batch_changes_nothing(batches: Batches, store: Store) -> None:
    store.add_cids(3)
    batch = await batches.running()
    store.add_cids(3)
    assert await batches.start(batch) == batch


async def test_a_batch_of_one_participant_contains_only_its_pending_cids(batches: Batches, store: Store) -> None:
    mine, _ = store.add_cids(30), store.add_cids(30, OTHER_ISPB)
    store.run('UPDATE "vsync".cids SET sync_status = 2, synced_at = now() WHERE cid = %s', [bytes.fromhex(mine[0])])
    batch = await batches.running(ispb=ISPB)
    assert batch.total_records == 29
    assert sorted(cids_of(await batches.claim(batch))) == sorted(mine[1:])


async def test_batches_of_two_participants_can_run_concurrently(batches: Batches, store: Store) -> None:
    mine, other = store.add_cids(3), store.add_cids(4, OTHER_ISPB)
    first, second = await asyncio.gather(batches.running(ispb=ISPB), batches.running(ispb=OTHER_ISPB))
    assert sorted(cids_of(await batches.claim(first))) == sorted(mine)
    assert sorted(cids_of(await batches.claim(second))) == sorted(other)


async def test_an_interrupted_start_continues_after_its_last_step(pool: Pool, store: Store) -> None:
    store.add_cids(45)
    batch_id, transitions = await created(pool), SyncBatchTransitions(pool, Mutations(pool), step=10)
    for limit in (0, 10, 30):
        store.run(f'ALTER TABLE "vsync".sync_batches ADD CONSTRAINT breaks CHECK (total_records <= {limit})')
        with pytest.raises(Internal):
            await transitions.start(mutation(), batch_id, scope=ALL)
        assert store.query('SELECT status, total_records FROM "vsync".sync_batches') == [(STARTING, limit)]
        store.run('ALTER TABLE "vsync".sync_batches DROP CONSTRAINT breaks')
    started = await transitions.start(mutation(), batch_id, scope=ALL)
    assert (started.status, started.total_records) == (RUNNING, 45)
    assert store.query('SELECT count(*) FROM "vsync".sync_batch_records') == [(45,)]


class Expiring(RequestContext):
    """A call that loses a tenth of its time at each query of the remaining time."""

    queried = 0

    def remaining(self) -> float:
        """Returns seconds; ten at first."""
        self.queried += 1
        return 11.0 - self.queried


async def test_a_start_that_runs_out_of_time_returns_starting_and_a_repetition_continues_it(
    pool: Pool, store: Store
) -> None:
    store.add_cids(100)
    batch_id, transitions = await created(pool), SyncBatchTransitions(pool, Mutations(pool), step=10)
    request = uuid4()
    first = await transitions.start(mutation(request, Expiring(method=START, correlation_id="-")), batch_id, scope=ALL)
    assert (first.status, first.total_records) == (STARTING, 90)
    last = await transitions.start(
        mutation(request, RequestContext(method=START, correlation_id="-")), batch_id, scope=ALL
    )
    assert (last.status, last.total_records) == (RUNNING, 100)
    assert (
        await transitions.start(
            mutation(request, RequestContext(method=START, correlation_id="-")), batch_id, scope=ALL
        )
        == last
    )


async def test_concurrent_starts_count_each_record_once(batches: Batches, store: Store) -> None:
    store.add_cids(500)
    batch = await batches.create()
    for started in await asyncio.gather(*(batches.start(batch) for _ in range(8))):
        assert (started.status, started.total_records) == (RUNNING, 500)
    assert store.audit("StartSyncBatch") == [
        {"batch_id": batch.id, "from": "PENDING", "to": "STARTING"},
        {"batch_id": batch.id, "taken_in": 500},
        {"batch_id": batch.id, "from": "STARTING", "to": "RUNNING"},
    ]


async def test_each_step_of_the_intake_that_adds_records_is_audited(pool: Pool, store: Store) -> None:
    store.add_cids(25)
    batch_id = await created(pool)
    await SyncBatchTransitions(pool, Mutations(pool), step=10).start(mutation(), batch_id, scope=ALL)
    assert [entry.get("taken_in") for entry in store.audit("StartSyncBatch")[-4:]] == [10, 10, 5, None]


async def test_a_start_ends_although_cids_are_created_faster_than_it_adds_them(pool: Pool, store: Store) -> None:
    store.add_cids(20)
    batch_id = await created(pool)
    store.run(STREAM_OF_CIDS)
    store.run(
        'CREATE TRIGGER more AFTER UPDATE OF total_records ON "vsync".sync_batches'
        ' FOR EACH STATEMENT EXECUTE FUNCTION "vsync".more()'
    )
    started = await SyncBatchTransitions(pool, Mutations(pool), step=5).start(mutation(), batch_id, scope=ALL)
    assert (started.status, started.total_records) == (RUNNING, 20)
    assert store.query('SELECT count(*) > 60 FROM "vsync".cids') == [(True,)]


@pytest.mark.both_versions
async def test_a_retry_reopens_the_failed_records(batches: Batches, store: Store) -> None:
    cids = store.add_cids(10)
    batch = await batches.running()
    first = await batches.claim(batch)
    await batches.report(first.claim_token, synced=cids[:4], failed=cids[4:8])
    failed = await batches.fail(batch, "the directory is down")
    assert (failed.status, failed.error_message, failed.leased_records) == (FAILED, "the directory is down", 2)

    again = await batches.retry(batch)
    assert (again.status, again.error_message) == (RUNNING, "")
    assert (again.total_records, again.synced_records, again.failed_records) == (10, 4, 0)
    assert again.started_at == failed.started_at
    assert store.statuses(cids[4:8]) == [(1, None)] * 4

    second = await batches.claim(batch)
    assert sorted(cids_of(second)) == sorted(cids[4:8])
    # The lease of the first claim survives the failure, but the retry has removed the failed records from it.
    assert await batches.report(first.claim_token, synced=cids[8:]) == ["APPLIED"] * 2
    assert await batches.report(first.claim_token, failed=cids[4:6]) == ["STALE"] * 2
    assert await batches.report(second.claim_token, synced=cids[4:8]) == ["APPLIED"] * 4
    assert (await batches.complete(batch)).synced_records == 10


async def test_a_retry_reopens_many_records_in_steps(batches: Batches, pool: Pool, store: Store) -> None:
    cids = store.add_cids(25)
    batch = await batches.running()
    claim = await batches.claim(batch)
    await batches.report(claim.claim_token, failed=cids)
    await batches.fail(batch)
    transitions = SyncBatchTransitions(pool, Mutations(pool), step=10)
    again = await transitions.retry(
        mutation(uuid4(), RequestContext(method=RETRY, correlation_id="-")), UUID(batch.id), scope=ALL
    )
    assert (again.status, again.failed_records) == (RUNNING, 0)
    assert store.statuses(cids) == [(1, None)] * 25
    assert sorted(cids_of(await batches.claim(batch))) == sorted(cids)
    entries = store.query('SELECT payload FROM "vsync".audit_logs WHERE action = %s ORDER BY id', [RETRY])
    assert [row[0]["reopened"] for row in entries] == [10, 10, 5]


async def test_a_retry_of_a_batch_that_never_ran_makes_it_pending(batches: Batches, store: Store) -> None:
    batch = await batches.create()
    await batches.fail(batch)
    assert (await batches.retry(batch)).status == PENDING
    store.add_cids(3)
    assert (await batches.start(batch)).total_records == 3


async def test_an_open_batch_with_the_same_cids_prevents_a_retry(batches: Batches, store: Store) -> None:
    cids = store.add_cids(2)
    batch = await batches.running("2026-11-02")
    await batches.report((await batches.claim(batch)).claim_token, failed=cids)
    await batches.fail(batch)
    other = await batches.create("2026-11-03", ISPB)
    assert await refusal(batches.retry(batch)) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "BATCH_OVERLAPS",
        {"open_id": other.id},
        [],
    )
    assert store.statuses(cids) == [(3, "the directory said no")] * 2
