"""Callers see and change the data of their participants only."""

import asyncio
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from vsync.v1 import audit_pb2, cid_pb2, reconciliation_pb2, sync_batch_pb2
from vsyncd.core.context import RequestContext
from vsyncd.core.errors import NotFound
from vsyncd.core.scope import ALL, Scope
from vsyncd.domains.cids.records import CidChanges, NewCid, Selector
from vsyncd.domains.cids.repository import CidRepository
from vsyncd.domains.sync_batches.batch_lock import CLAIM_METHOD, ClaimNotFound
from vsyncd.domains.sync_batches.claims import SyncClaimRepository
from vsyncd.domains.sync_batches.records import SyncClaim
from vsyncd.domains.sync_batches.repository import SyncBatchRepository
from vsyncd.domains.sync_batches.transitions import SyncBatchTransitions
from vsyncd.postgres.mutations import Mutation, Mutations

from tests.harness.cids import cid_of, failure_of, info_of
from tests.harness.clusters import Database
from tests.harness.scopes import CPF, DAY, FOREIGN, OWN, SECOND, Stubs, number_of, record_of, scoped_settings
from tests.harness.serving import fields_of, opened, reason_of, settings_for

SCOPES = {"own": [OWN], "two": [OWN, SECOND], "all": [OWN, SECOND, FOREIGN]}


@pytest.fixture
def overrides(tmp_path: Path) -> dict[str, Any]:
    return scoped_settings(tmp_path)


@pytest.fixture
def callers(channel: grpc.aio.Channel) -> dict[str, Stubs]:
    return {name: Stubs(channel, name) for name in ("own", "two", "all", "other")}


def ispbs_of(records: Sequence[Any]) -> list[str]:
    """Returns the participants of records, each once."""
    return sorted({record.ispb for record in records})


async def listed(stubs: Stubs, **selected: Any) -> list[cid_pb2.CidRecord]:
    """Returns all records that match, in pages of one record."""
    found: list[cid_pb2.CidRecord] = []
    token = ""
    while True:
        request = cid_pb2.ListCidsRequest(filter=cid_pb2.CidFilter(**selected), page_size=1, page_token=token)
        page = await stubs.cids.ListCids(request, metadata=stubs.metadata)
        found += page.records
        token = page.next_page_token
        if not token:
            return found


async def exported(stubs: Stubs, **selected: Any) -> list[cid_pb2.CidRecord]:
    request = cid_pb2.ExportCidsRequest(filter=cid_pb2.CidFilter(**selected))
    messages = stubs.cids.ExportCids(request, metadata=stubs.metadata)
    return [record async for message in messages for record in message.records]


async def watched(stubs: Stubs, resume_token: str, count: int) -> list[reconciliation_pb2.CidEvent]:
    """Returns this number of events after a token."""
    request = reconciliation_pb2.WatchCidEventsRequest(resume_token=resume_token)
    call = stubs.reconciliation.WatchCidEvents(request, metadata=stubs.metadata, timeout=60)
    found: list[reconciliation_pb2.CidEvent] = []
    while len(found) < count:
        message: Any = await call.read()
        found += message.events
    call.cancel()
    return found


async def test_reads_without_an_ispb_return_the_participants_of_the_caller(callers: dict[str, Stubs]) -> None:
    everyone = callers["all"]
    watch = everyone.reconciliation.WatchCidEvents(
        reconciliation_pb2.WatchCidEventsRequest(), metadata=everyone.metadata, timeout=60
    )
    first: Any = await watch.read()
    token: str = first.resume_token
    watch.cancel()
    tax_id = "12345678901"
    for ispb in (FOREIGN, OWN, SECOND, FOREIGN):  # records outside the scope come first and last
        at = 2 if ispb == FOREIGN and await listed(everyone) else 0
        await everyone.create(*(record_of(ispb, at + n, tax_id=tax_id) for n in range(2)))
    synced = [cid_of(number_of(ispb, 0)) for ispb in SCOPES["all"]]
    await everyone.cids.UpdateSyncStatus(
        cid_pb2.UpdateSyncStatusRequest(cids=synced, sync_status=cid_pb2.SYNC_STATUS_SYNCED),
        metadata=everyone.metadata,
    )
    for ispb in SCOPES["all"]:
        await everyone.running(ispb)

    filters: list[dict[str, Any]] = [
        {},
        {"key_type": CPF},
        {"sync_status": cid_pb2.SYNC_STATUS_PENDING},
        {"sync_status": cid_pb2.SYNC_STATUS_SYNCED},
        {"tax_id": tax_id},
    ]
    for name, ispbs in SCOPES.items():
        stubs = callers[name]
        for selected in filters:
            records = await listed(stubs, **selected)
            assert ispbs_of(records) == ispbs, (name, selected)
            assert [record.id for record in records] == sorted(record.id for record in records)
            assert await exported(stubs, **selected) == records
        count = await stubs.cids.CountCids(cid_pb2.CountCidsRequest(), metadata=stubs.metadata)
        assert count.total == len(await listed(stubs)) == (8 if name == "all" else 2 * len(ispbs))
        for status in (sync_batch_pb2.SYNC_BATCH_STATUS_UNSPECIFIED, sync_batch_pb2.SYNC_BATCH_STATUS_RUNNING):
            batches = await stubs.batches.ListSyncBatches(
                sync_batch_pb2.ListSyncBatchesRequest(status=status), metadata=stubs.metadata
            )
            assert ispbs_of(batches.batches) == ispbs
        assert ispbs_of(await watched(stubs, token, count.total)) == ispbs


async def test_an_audit_entry_names_the_caller_that_recorded_it(callers: dict[str, Stubs]) -> None:
    own = callers["own"]
    for actor in ("key:all", ""):
        log = audit_pb2.AuditLog(action="test", ispb=OWN, actor=actor, recorded_by="key:all")
        request = audit_pb2.AppendAuditLogRequest(log=log)
        appended = (await own.audit.AppendAuditLog(request, metadata=own.metadata)).log
        found = (appended.recorded_by, appended.on_behalf_of, appended.actor)
        assert found == ("key:own", actor, actor or "key:own")


async def test_audit_entries_are_visible_to_callers_with_their_participant(callers: dict[str, Stubs]) -> None:
    everyone = callers["all"]
    cid = record_of(OWN, 0).cid
    ids: dict[str, str] = {}
    for ispb in ("", OWN, SECOND, FOREIGN):
        log = audit_pb2.AuditLog(action="test", resource="r", cid=cid, ispb=ispb)
        request = audit_pb2.AppendAuditLogRequest(log=log)
        ids[ispb] = (await everyone.audit.AppendAuditLog(request, metadata=everyone.metadata)).log.id
    for name, ispbs in (SCOPES | {"all": ["", *SCOPES["all"]]}).items():
        stubs = callers[name]
        assert ispbs_of(await stubs.audit_of(cid)) == ispbs
        listing = audit_pb2.ListAuditLogsRequest(resource="r", page_size=1)
        found: list[audit_pb2.AuditLog] = []
        while True:
            page = await stubs.audit.ListAuditLogs(listing, metadata=stubs.metadata)
            found += page.logs
            listing.page_token = page.next_page_token
            if not listing.page_token:
                break
        assert ispbs_of(found) == ispbs
        if name != "all":
            call = stubs.audit.GetAuditLog(audit_pb2.GetAuditLogRequest(id=ids[""]), metadata=stubs.metadata)
            assert reason_of(await failure_of(call)) == "AUDIT_LOG_NOT_FOUND"
    own = callers["own"]
    logs = [audit_pb2.AuditLog(action="test", ispb=ispb) for ispb in (OWN, "")]
    append = own.audit.BatchAppendAuditLogs(audit_pb2.BatchAppendAuditLogsRequest(logs=logs), metadata=own.metadata)
    info = info_of(await failure_of(append))
    assert (info.reason, dict(info.metadata)) == ("ISPB_DENIED", {"index": "1"})


async def test_a_conflict_with_another_participant_reveals_nothing_of_its_record(callers: dict[str, Stubs]) -> None:
    own, everyone = callers["own"], callers["all"]
    [foreign, _] = await everyone.create(record_of(FOREIGN, 0), record_of(OWN, 0))
    taken = record_of(OWN, 1, cid=foreign.cid)

    async def metadata(call: Any) -> dict[str, str]:
        info = info_of(await failure_of(call))
        assert info.reason == "CID_EXISTS"
        return dict(info.metadata)

    create = cid_pb2.CreateCidRequest(record=taken)
    batch = cid_pb2.BatchCreateCidsRequest(records=[record_of(OWN, 2), taken])
    update = cid_pb2.UpdateCidRequest(
        cid=cid_of(number_of(OWN, 0)),
        update=cid_pb2.CidUpdate(cid=foreign.cid),
        update_mask=FieldMask(paths=["cid"]),
    )
    start = cid_pb2.ImportStart(import_id=str(uuid4()), on_conflict=cid_pb2.ON_CONFLICT_FAIL)
    chunk = cid_pb2.ImportChunk(number=1, records=[taken])
    requests = [cid_pb2.ImportCidsRequest(start=start), cid_pb2.ImportCidsRequest(chunk=chunk)]
    assert await metadata(own.cids.CreateCid(create, metadata=own.metadata)) == {"field": "cid"}
    assert await metadata(own.cids.BatchCreateCids(batch, metadata=own.metadata)) == {"field": "cid", "index": "1"}
    assert await metadata(own.cids.UpdateCid(update, metadata=own.metadata)) == {"field": "cid"}
    stream = own.cids.ImportCids(iter(requests), metadata=own.metadata)
    await stream.read()
    assert await metadata(stream.read()) == {"field": "cid", "index": "0"}
    seen = await metadata(everyone.cids.CreateCid(create, metadata=everyone.metadata))
    assert seen == {"field": "cid", "existing_id": foreign.id, "revision": "1"}


async def test_a_batch_of_all_participants_needs_all_and_is_hidden_from_others(callers: dict[str, Stubs]) -> None:
    own, everyone = callers["own"], callers["all"]
    request = sync_batch_pb2.CreateSyncBatchRequest(batch_date=DAY)
    denied = await failure_of(own.batches.CreateSyncBatch(request, metadata=own.metadata))
    assert (denied.code(), reason_of(denied)) == (grpc.StatusCode.PERMISSION_DENIED, "ISPB_DENIED")
    batch = (await everyone.batches.CreateSyncBatch(request, metadata=everyone.metadata)).batch
    key = sync_batch_pb2.SyncBatchKey(batch_date=DAY)
    for selector in ({"id": batch.id}, {"key": key}):
        read = own.batches.GetSyncBatch(sync_batch_pb2.GetSyncBatchRequest(**selector), metadata=own.metadata)
        assert reason_of(await failure_of(read)) == "BATCH_NOT_FOUND"
    request.ispb = OWN
    info = info_of(await failure_of(own.batches.CreateSyncBatch(request, metadata=own.metadata)))
    assert (info.reason, dict(info.metadata)) == ("BATCH_OVERLAPS", {})


async def test_writes_that_name_a_foreign_key_are_denied(callers: dict[str, Stubs]) -> None:
    own = callers["own"]
    await callers["all"].create(record_of(FOREIGN, 0))
    key = cid_pb2.CidKey(key_value=record_of(FOREIGN, 0).key_value, ispb=FOREIGN)
    delete = own.cids.DeleteCid(cid_pb2.DeleteCidRequest(key=key), metadata=own.metadata)
    assert reason_of(await failure_of(delete)) == "ISPB_DENIED"
    update = cid_pb2.UpdateCidRequest(
        key=key, update=cid_pb2.CidUpdate(cid=cid_of(1)), update_mask=FieldMask(paths=["cid"])
    )
    assert reason_of(await failure_of(own.cids.UpdateCid(update, metadata=own.metadata))) == "ISPB_DENIED"
    get = own.cids.GetCid(cid_pb2.GetCidRequest(key=key), metadata=own.metadata)
    assert reason_of(await failure_of(get)) == "CID_NOT_FOUND"


async def test_batches_of_writes_leave_foreign_records_unchanged(callers: dict[str, Stubs]) -> None:
    own, everyone = callers["own"], callers["all"]
    mine, foreign = await everyone.create(record_of(OWN, 0), record_of(FOREIGN, 0))
    cids = [mine.cid, foreign.cid]
    status = cid_pb2.UpdateSyncStatusRequest(cids=cids, sync_status=cid_pb2.SYNC_STATUS_SYNCED)
    updated = await own.cids.UpdateSyncStatus(status, metadata=own.metadata)
    assert (updated.updated, list(updated.missing)) == (1, [foreign.cid])
    deleted = await own.cids.BatchDeleteCids(cid_pb2.BatchDeleteCidsRequest(cids=cids), metadata=own.metadata)
    assert list(deleted.missing) == [foreign.cid]
    assert await listed(everyone) == [foreign]


async def test_concurrent_reads_of_one_record_are_answered_by_the_scope_of_each_caller(
    callers: dict[str, Stubs],
) -> None:
    [foreign] = await callers["all"].create(record_of(FOREIGN, 0))

    async def get(name: str) -> str:
        stubs = callers[name]
        try:
            await stubs.cids.GetCid(cid_pb2.GetCidRequest(cid=foreign.cid), metadata=stubs.metadata)
        except grpc.aio.AioRpcError as error:
            return reason_of(error)
        return "found"

    outcomes = await asyncio.gather(*map(get, ["all", "own"] * 20))
    assert outcomes == ["found", "CID_NOT_FOUND"] * 20


async def test_tokens_and_ids_of_another_caller_grant_nothing(callers: dict[str, Stubs]) -> None:
    everyone, other = callers["all"], callers["other"]
    await everyone.create(record_of(OWN, 0), record_of(OWN, 1))
    page = await everyone.cids.ListCids(cid_pb2.ListCidsRequest(page_size=1), metadata=everyone.metadata)
    again = cid_pb2.ListCidsRequest(page_token=page.next_page_token)
    assert fields_of(await failure_of(other.cids.ListCids(again, metadata=other.metadata))) == ["page_token"]
    claim = await everyone.claim(await everyone.running(OWN))
    release = sync_batch_pb2.ReleaseSyncRecordsRequest(claim_token=claim)
    denied = await failure_of(other.batches.ReleaseSyncRecords(release, metadata=other.metadata))
    assert reason_of(denied) == "CLAIM_NOT_FOUND"
    assert (await everyone.batches.ReleaseSyncRecords(release, metadata=everyone.metadata)).released == 1
    start = cid_pb2.ImportStart(import_id=str(uuid4()), on_conflict=cid_pb2.ON_CONFLICT_FAIL)
    for stubs in (everyone, other):
        stream = stubs.cids.ImportCids(iter([cid_pb2.ImportCidsRequest(start=start)]), metadata=stubs.metadata)
        if stubs is everyone:
            await stream.read()
        else:
            assert reason_of(await failure_of(stream.read())) == "IMPORT_REUSED"


async def test_a_narrowed_scope_applies_to_repeated_requests_and_to_claims(database: Database) -> None:
    foreign = Scope(frozenset({FOREIGN}))
    new = NewCid(bytes(32), CPF, "00000000001", OWN, None, "1", 1, "00000000001", None)

    def mutation(method: str = "m", request_id: UUID | None = None) -> Mutation:
        call = RequestContext(method=method, correlation_id="-")
        return Mutation(request_id=request_id, fingerprint=bytes(16), call=call)

    async with opened(settings_for(database.service_url)) as pool:
        mutations = Mutations(pool)
        cids, claims = CidRepository(pool, mutations), SyncClaimRepository(pool, mutations)
        batches, transitions = SyncBatchRepository(pool, mutations), SyncBatchTransitions(pool, mutations)
        await cids.create(mutation(), new, scope=ALL)
        batch = await batches.create(mutation(), batch_date=date(2026, 11, 3), ispb=OWN, scope=ALL)

        async def update(scope: Scope) -> object:
            changes = CidChanges(bytes([1] * 32), (), None, "1", 1, None)
            return await cids.update(
                mutation("u", UUID(int=1)), Selector(cid=new.cid), changes, revision=None, scope=scope
            )

        async def start(scope: Scope) -> object:
            return await transitions.start(mutation("s", UUID(int=2)), batch.id, scope=scope)

        async def claim(scope: Scope) -> SyncClaim:
            lease, request = timedelta(minutes=1), mutation(CLAIM_METHOD, UUID(int=3))
            return await claims.claim(request, batch.id, worker_id="w", max_records=1, lease=lease, scope=scope)

        for repeated in (update, start):
            await repeated(ALL)
            with pytest.raises(NotFound):
                await repeated(foreign)
        token = (await claim(ALL)).token
        assert token is not None
        assert await claim(foreign) == SyncClaim([])
        for call in (
            claims.extend(mutation(), token, lease=timedelta(minutes=1), scope=foreign),
            claims.report(mutation(), token, [], scope=foreign),
            claims.release(mutation(), token, scope=foreign),
        ):
            with pytest.raises(ClaimNotFound):
                await call
        assert await claims.release(mutation(), token, scope=ALL) == 1
