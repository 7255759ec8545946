"""Claims and reports: leases of records, and the outcomes of reports."""

import asyncio
from datetime import UTC, timedelta
from uuid import UUID, uuid4

import grpc
import pytest
from vsync.v1 import sync_batch_pb2 as pb
from vsyncd.core.context import RequestContext
from vsyncd.core.errors import Aborted
from vsyncd.core.scope import ALL
from vsyncd.domains.sync_batches.batch_lock import CLAIM_METHOD
from vsyncd.domains.sync_batches.claims import SyncClaimRepository
from vsyncd.domains.sync_batches.records import SyncClaim
from vsyncd.postgres.database import Database as Pool
from vsyncd.postgres.mutations import Mutation, Mutations

from tests.integration.domains.sync_batches.batches import (
    ISPB,
    OTHER_ISPB,
    Batches,
    Store,
    cids_of,
    forbidden,
    refusal,
)


async def test_a_claim_returns_complete_records_up_to_its_limit(batches: Batches, store: Store) -> None:
    store.add_cids(7)
    batch = await batches.running()
    claim = await batches.claim(batch, 5)
    assert len(claim.records) == 5
    record = claim.records[0]
    assert (record.ispb, record.account_number, record.tax_id, record.revision) == (ISPB, "7654321", "11122233300", 1)
    rest = await batches.claim(batch, 5)
    assert len(rest.records) == 2
    assert not set(cids_of(claim)) & set(cids_of(rest))
    assert list((await batches.claim(batch)).records) == []


@pytest.mark.both_versions
async def test_another_worker_can_claim_records_after_their_lease_has_expired(batches: Batches, store: Store) -> None:
    """Waits for the end of a real lease of one second.

    If the machine stalls, a lease can expire before the next claim. Then the test waits for the end of that claim.
    """
    cids = store.add_cids(3)
    batch = await batches.running()
    first = await batches.claim(batch, seconds=1)
    while cids_of(again := await batches.claim(batch, seconds=1)):
        assert again.lease_expires_at.ToDatetime() >= first.lease_expires_at.ToDatetime() + timedelta(seconds=1)
        first = again
    store.query("SELECT pg_sleep_until(%s::timestamptz)", [first.lease_expires_at.ToDatetime(UTC)])
    assert (await batches.get(batch)).leased_records == 0
    second = await batches.claim(batch)
    assert sorted(cids_of(second)) == sorted(cids)
    assert await batches.report(first.claim_token, synced=cids) == ["STALE"] * 3
    assert store.statuses(cids) == [(1, None)] * 3
    assert await batches.report(second.claim_token, synced=cids) == ["APPLIED"] * 3


async def test_a_late_report_is_applied_if_no_other_worker_has_claimed_the_record(
    batches: Batches, store: Store
) -> None:
    cids = store.add_cids(3)
    batch = await batches.running()
    claim = await batches.claim(batch)
    store.end_lease(claim.claim_token)
    taken = cids_of(await batches.claim(batch, 1))
    outcomes = await batches.report(claim.claim_token, synced=cids)
    assert outcomes == ["STALE" if cid in taken else "APPLIED" for cid in cids]


async def test_the_same_report_is_repeated_and_a_different_one_is_stale(batches: Batches, store: Store) -> None:
    cids = store.add_cids(2)
    batch = await batches.running()
    token = (await batches.claim(batch)).claim_token
    assert await batches.report(token, synced=cids[:1], failed=cids[1:]) == ["APPLIED", "APPLIED"]
    assert await batches.report(token, synced=cids[:1], failed=cids[1:]) == ["REPEATED", "REPEATED"]
    assert await batches.report(token, synced=cids[1:], failed=cids[:1]) == ["STALE", "STALE"]
    now = await batches.get(batch)
    assert (now.synced_records, now.failed_records, now.skipped_records) == (1, 1, 0)
    assert store.statuses(cids) == [(2, None), (3, "the directory said no")]


async def test_records_that_are_not_reported_stay_claimed(batches: Batches, store: Store) -> None:
    cids = store.add_cids(4)
    batch = await batches.running()
    token = (await batches.claim(batch)).claim_token
    await batches.report(token, synced=cids[:1])
    assert (await batches.get(batch)).leased_records == 3
    assert await batches.release(token) == 3


async def test_a_report_for_records_of_another_claim_is_stale(batches: Batches, store: Store) -> None:
    cids = store.add_cids(2)
    batch = await batches.running()
    first, second = await batches.claim(batch, 1), await batches.claim(batch, 1)
    assert sorted(cids_of(first) + cids_of(second)) == sorted(cids)
    assert await batches.report(first.claim_token, synced=[*cids_of(second), "ab" * 32]) == ["STALE", "STALE"]


async def test_reporting_a_deleted_or_changed_cid_skips_its_record(batches: Batches, store: Store) -> None:
    cids = store.add_cids(3)
    batch = await batches.running()
    token = (await batches.claim(batch)).claim_token
    store.delete_cids(cids[:1])
    store.run(
        'UPDATE "vsync".cids SET cid = sha256(cid), revision = revision + 1 WHERE cid = %s', [bytes.fromhex(cids[1])]
    )
    assert await batches.report(token, synced=cids) == ["STALE", "STALE", "APPLIED"]
    assert await batches.report(token, synced=cids) == ["STALE", "STALE", "REPEATED"]
    completed = await batches.complete(batch)
    assert (completed.synced_records, completed.skipped_records) == (1, 2)


@pytest.mark.both_versions
async def test_a_report_only_applies_to_the_claimed_revision_of_a_cid(batches: Batches, store: Store) -> None:
    """Not if it was changed and changed back, and not if it was deleted and created again."""
    cids = store.add_cids(4)
    batch = await batches.running()
    token = (await batches.claim(batch)).claim_token
    store.change_and_change_back(cids[:1])
    store.create_again(cids[1:2])
    await batches.extend(token)
    assert await batches.report(token, synced=cids[:3], failed=cids[3:]) == ["STALE", "STALE", "APPLIED", "APPLIED"]
    assert store.statuses(cids) == [(1, None), (1, None), (2, None), (3, "the directory said no")]
    assert await batches.report(token, synced=cids[:3], failed=cids[3:]) == ["STALE", "STALE", "REPEATED", "REPEATED"]
    completed = await batches.complete(batch)
    assert (completed.synced_records, completed.failed_records, completed.skipped_records) == (1, 1, 2)


async def test_a_new_claim_covers_earlier_changes_of_the_cid(batches: Batches, store: Store) -> None:
    cids = store.add_cids(4)
    batch = await batches.running()
    first = await batches.claim(batch)
    store.change_and_change_back(cids[:2])
    store.create_again(cids[2:])
    await batches.release(first.claim_token)
    second = await batches.claim(batch)
    assert {record.revision for record in second.records} == {1, 3}
    assert await batches.report(second.claim_token, synced=cids) == ["APPLIED"] * 4


async def test_a_late_report_after_a_retry_does_not_overwrite_the_result_of_another_batch(
    batches: Batches, store: Store
) -> None:
    cids = store.add_cids(2)
    first = await batches.running("2026-11-02")
    late = await batches.claim(first)
    await batches.fail(first)
    store.end_lease(late.claim_token)
    second = await batches.running("2026-11-03")
    assert await batches.report((await batches.claim(second)).claim_token, synced=cids) == ["APPLIED"] * 2
    await batches.complete(second)
    await batches.retry(first)
    assert await batches.report(late.claim_token, failed=cids) == ["STALE"] * 2
    assert store.statuses(cids) == [(2, None)] * 2
    assert (await batches.complete(first)).skipped_records == 2


async def test_a_claim_finds_records_after_many_deleted_cids(batches: Batches, store: Store) -> None:
    cids = store.add_cids(500)
    batch = await batches.running()
    store.delete_before(cids, 3)
    checked = await batches.claim(batch, 1, validate_only=True)
    assert len(checked.records) == 1
    assert (await batches.get(batch)).skipped_records == 0
    claims = [await batches.claim(batch, 1) for _ in range(4)]
    assert sorted(cid for claim in claims for cid in cids_of(claim)) == sorted(cids[497:])
    assert claims[3] == pb.ClaimSyncRecordsResponse()
    assert (await batches.get(batch)).skipped_records == 497
    assert [(entry["claimed"], entry["skipped"]) for entry in store.audit("ClaimSyncRecords")] == [
        (0, 497),
        (1, 0),
        (1, 0),
        (1, 0),
    ]


class Short(RequestContext):
    """A call whose remaining time is short from the fourth query on."""

    queried = 0

    def remaining(self) -> float:
        """Returns seconds; ten at first."""
        self.queried += 1
        return 1.0 if self.queried > 3 else 10.0


async def test_a_claim_that_runs_out_of_time_keeps_the_skipped_records_and_can_be_retried(
    batches: Batches, pool: Pool, store: Store
) -> None:
    cids = store.add_cids(100)
    batch = await batches.running()
    store.delete_before(cids, 10)
    claims = SyncClaimRepository(pool, Mutations(pool), step=20)

    async def claim(*, validate_only: bool = False) -> SyncClaim:
        call = Short(method=CLAIM_METHOD, correlation_id="-")
        mutation = Mutation(request_id=uuid4(), fingerprint=bytes(16), call=call, validate_only=validate_only)
        lease = timedelta(minutes=1)
        return await claims.claim(mutation, UUID(batch.id), worker_id="w", max_records=5, lease=lease, scope=ALL)

    with pytest.raises(Aborted, match="CONTENTION"):
        await claim(validate_only=True)
    assert (await batches.get(batch)).skipped_records == 0
    for skipped in (40, 80):
        with pytest.raises(Aborted, match="CONTENTION") as raised:
            await claim()
        assert raised.value.retry_after
        assert (await batches.get(batch)).skipped_records == skipped
    assert len((await claim()).records) == 5
    assert (await batches.get(batch)).skipped_records == 90


async def test_a_claim_replaces_records_of_deleted_cids_by_others(batches: Batches, store: Store) -> None:
    cids = store.add_cids(60)
    batch = await batches.running()
    store.delete_cids(cids[:50])
    claim = await batches.claim(batch, 6)
    assert len(claim.records) == 6
    assert not set(cids_of(claim)) & set(cids[:50])
    rest = await batches.claim(batch)
    assert sorted(cids_of(claim) + cids_of(rest)) == sorted(cids[50:])
    assert (await batches.get(batch)).skipped_records == 50


async def test_a_batch_can_be_completed_after_all_its_cids_were_deleted(batches: Batches, store: Store) -> None:
    cids = store.add_cids(5)
    batch = await batches.running()
    store.delete_cids(cids)
    assert list((await batches.claim(batch)).records) == []
    assert (await batches.complete(batch)).skipped_records == 5
    assert store.audit("ClaimSyncRecords") == [
        {"batch_id": batch.id, "worker_id": "worker-1", "claimed": 0, "skipped": 5}
    ]


@pytest.mark.parametrize("ispb", [ISPB, ""])
async def test_the_audit_entries_of_a_claim_name_the_participant_of_its_records(
    batches: Batches, store: Store, ispb: str
) -> None:
    store.add_cids(2)
    batch = await batches.running(ispb=ispb)
    claim = await batches.claim(batch, 1)
    await batches.extend(claim.claim_token)
    await batches.report(claim.claim_token, cids_of(claim))
    await batches.release((await batches.claim(batch, 1)).claim_token)
    methods = ("ClaimSyncRecords", "ExtendSyncLease", "ReportSyncRecords", "ClaimSyncRecords", "ReleaseSyncRecords")
    assert [entry for entry in store.audited_ispbs() if entry[0] in methods] == [(method, ISPB) for method in methods]


async def test_the_audit_entries_of_a_claim_of_several_participants_name_none(batches: Batches, store: Store) -> None:
    store.add_cids(1)
    store.add_cids(1, OTHER_ISPB)
    claim = await batches.claim(await batches.running())
    await batches.report(claim.claim_token, cids_of(claim))
    assert store.audited_ispbs()[-2:] == [("ClaimSyncRecords", None), ("ReportSyncRecords", None)]


async def test_an_expired_lease_can_be_extended(batches: Batches, store: Store) -> None:
    store.add_cids(3)
    batch = await batches.running()
    claim = await batches.claim(batch, seconds=30)
    extension = await batches.extend(claim.claim_token, 600)
    assert extension.extended == 3
    assert 560 < extension.lease_expires_at.seconds - claim.lease_expires_at.seconds < 600
    assert (await batches.get(batch)).oldest_lease_expires_at == extension.lease_expires_at
    store.end_lease(claim.claim_token)
    assert (await batches.extend(claim.claim_token)).extended == 3
    assert list((await batches.claim(batch)).records) == []


async def test_a_claim_without_records_cannot_be_extended(batches: Batches, store: Store) -> None:
    cids = store.add_cids(2)
    batch = await batches.running()
    claim = await batches.claim(batch)
    store.end_lease(claim.claim_token)
    await batches.claim(batch)
    answer = await refusal(batches.extend(claim.claim_token))
    assert (answer.code, answer.reason) == (grpc.StatusCode.NOT_FOUND, "CLAIM_NOT_FOUND")
    assert await batches.release(claim.claim_token) == 0
    assert await batches.report(claim.claim_token, synced=cids) == ["STALE"] * 2


async def test_released_records_can_be_claimed_immediately(batches: Batches, store: Store) -> None:
    cids = store.add_cids(4)
    batch = await batches.running()
    first = await batches.claim(batch)
    await batches.report(first.claim_token, synced=cids[:1])
    assert await batches.release(first.claim_token) == 3
    assert await batches.release(first.claim_token) == 0
    second = await batches.claim(batch)
    assert sorted(cids_of(second)) == sorted(cids[1:])
    assert await batches.report(first.claim_token, synced=cids) == ["REPEATED", "STALE", "STALE", "STALE"]


async def test_records_of_a_failed_batch_can_be_released_but_not_reported(batches: Batches, store: Store) -> None:
    cids = store.add_cids(4)
    batch = await batches.running()
    token = (await batches.claim(batch)).claim_token
    await batches.fail(batch)
    assert await refusal(batches.report(token, synced=cids)) == forbidden("FAILED", "RUNNING")
    assert await batches.release(token) == 4


async def test_an_unknown_claim_token_is_not_found(batches: Batches, store: Store) -> None:
    store.add_cids(1)
    batch = await batches.create()
    other_entry = str(store.query('SELECT id FROM "vsync".audit_logs')[0][0])
    assert batch.status == pb.SYNC_BATCH_STATUS_PENDING
    for token in (str(uuid4()), other_entry):
        for call in (batches.extend(token), batches.release(token), batches.report(token, synced=["ab" * 32])):
            answer = await refusal(call)
            assert (answer.code, answer.reason) == (grpc.StatusCode.NOT_FOUND, "CLAIM_NOT_FOUND")


@pytest.mark.both_versions
async def test_concurrent_workers_never_hold_the_same_record(batches: Batches, store: Store) -> None:
    """Twelve workers. The leases of some expire, and other workers claim their records."""
    cids = store.add_cids(1500)
    store.delete_cids(cids[:30])
    existing = set(cids[30:])
    batch = await batches.start(await batches.create())
    store.delete_cids(cids[30:60])
    owners: dict[str, str] = {}

    async def work(name: str, *, forgetful: bool) -> None:
        while records := cids_of(claim := await batches.claim(batch, 40, worker=name)):
            assert not owners.keys() & set(records), "another worker holds a lease"
            owners.update(dict.fromkeys(records, name))
            await asyncio.sleep(0)
            if forgetful:
                for cid in records:
                    del owners[cid]
                # In a thread, because it may wait for a claim of this event loop. A claim also locks records that
                # other workers have claimed since it began, and then leaves them out.
                await asyncio.to_thread(store.end_lease, claim.claim_token)
                assert "REPEATED" not in await batches.report(claim.claim_token, synced=records[:5])
                forgetful = False
                continue
            half = len(records) // 2
            outcomes = await batches.report(claim.claim_token, synced=records[half:], failed=records[:half])
            assert outcomes == ["APPLIED"] * len(records)

    await asyncio.gather(*(work(f"worker-{n}", forgetful=n < 3) for n in range(12)))
    done = await batches.complete(batch)
    assert done.total_records == 1470
    assert done.skipped_records == 30
    assert done.synced_records + done.failed_records == 1440
    statuses = dict(store.query('SELECT sync_status, count(*) FROM "vsync".cids GROUP BY 1'))
    assert statuses == {2: done.synced_records, 3: done.failed_records}
    assert set(owners) <= existing


async def test_completing_a_batch_is_not_starved_by_polling_workers(batches: Batches, store: Store) -> None:
    """The exclusive lock is granted although workers acquire the shared lock without a pause."""
    store.add_cids(20)
    batch = await batches.running()
    over = asyncio.Event()

    async def poll() -> None:
        while not over.is_set():
            claim = await batches.claim(batch, 1)
            if claim.records:
                await batches.report(claim.claim_token, synced=cids_of(claim))

    workers = [asyncio.create_task(poll()) for _ in range(16)]
    while (await batches.get(batch)).synced_records < 20:
        pass
    done = await asyncio.wait_for(batches.complete(batch), 60)
    over.set()
    results = await asyncio.gather(*workers, return_exceptions=True)
    assert (done.synced_records, done.total_records) == (20, 20)
    assert all(result is None or isinstance(result, grpc.aio.AioRpcError) for result in results)
