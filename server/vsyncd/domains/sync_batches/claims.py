"""Claims: records of a running batch that are leased to one worker until a time of the database's clock.

A claim's token is the id of its audit entry. The worker reports the directory's results for the claimed records: then
CIDs and the counts of the batch change in one transaction.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, NamedTuple
from uuid import UUID

from vsyncd.core.errors import Aborted
from vsyncd.core.scope import Scope
from vsyncd.domains.cids.records import FAILED, SYNCED, CidRecord, single_ispb
from vsyncd.domains.sync_batches.batch_lock import BatchLock, ClaimNotFound, batch_queries
from vsyncd.domains.sync_batches.deadline import StepDeadline
from vsyncd.domains.sync_batches.records import Extension, RecordOutcome, ReportOutcome, SyncClaim, SyncResult
from vsyncd.postgres.database import Database
from vsyncd.postgres.mutations import Mutation, Mutations, Outcome, never_again, replay_by
from vsyncd.postgres.queries import Session

# How often a claim that has some records replaces those whose CIDs were deleted.
_MAX_ROUNDS: Final = 10
# Free records that one transaction examines for deleted CIDs.
STEP_RECORDS: Final = 10_000


class TooManySkipped(Aborted):
    """The CIDs of so many records were deleted that the call has no time left to skip them all."""

    def __init__(self) -> None:
        message = "The CIDs of the next records were deleted. The call has skipped some of them. Try again."
        super().__init__("CONTENTION", message, retry_after=0.1)


_OUTCOMES: Mapping[int, RecordOutcome] = {SYNCED: RecordOutcome.SYNCED, FAILED: RecordOutcome.FAILED}


class BatchRecord(NamedTuple):
    """A record of the batch: its claim, its outcome (None while it is open), and the CID as it was claimed."""

    claim_token: UUID | None
    outcome: int | None
    cid_id: UUID | None = None
    cid_revision: int | None = None


def report_outcome(result: SyncResult, record: BatchRecord | None, token: UUID) -> ReportOutcome:
    """Returns the outcome of a result if its CID has not changed. `record` is None if the batch has no such record.

    An expired lease is valid as long as no other worker has claimed the record.
    """
    if record is None or record.claim_token != token:
        return ReportOutcome.STALE
    if record.outcome is None:
        return ReportOutcome.APPLIED
    return ReportOutcome.REPEATED if record.outcome == _OUTCOMES[result.sync_status] else ReportOutcome.STALE


class _OnlyDeletedCids(Exception):  # noqa: N818  it rolls the transaction back
    """The CIDs of the next records were deleted: they must be skipped in transactions of their own."""


class _ClaimRequest(NamedTuple):
    """The parameters of a claim. `payload` is common to its audit entries."""

    batch_id: UUID
    payload: dict[str, str]
    max_records: int
    lease: timedelta
    deadline: StepDeadline
    scope: Scope


class SyncClaimRepository:
    """Claims, extends, releases and reports records. `step` limits the records that one transaction skips."""

    def __init__(self, database: Database, mutations: Mutations, *, step: int = STEP_RECORDS) -> None:
        self._mutations = mutations
        self._step = step
        self._queries = batch_queries(database.schema)
        self._lock = BatchLock(database.schema)

    async def claim(
        self, mutation: Mutation, batch_id: UUID, *, worker_id: str, max_records: int, lease: timedelta, scope: Scope
    ) -> SyncClaim:
        """Claims up to `max_records` free records.

        Records whose CIDs were deleted are skipped. If there are no other records at first, they are skipped in steps,
        each committed by itself. The mutation's method must be CLAIM_METHOD. Raises BatchNotFound, InvalidTransition,
        TooManySkipped.
        """
        deadline = StepDeadline(mutation.call)
        payload = {"batch_id": str(batch_id), "worker_id": worker_id}
        request = _ClaimRequest(batch_id, payload, max_records, lease, deadline, scope)

        async def skip(session: Session) -> Outcome[None]:
            batch = await self._lock.lock_shared(session, batch_id, None, scope=scope)
            skipped = await self._skip(session, batch_id, batch.now)
            counts = {"claimed": 0, "skipped": skipped}
            return Outcome(None, b"", payload | counts, ispb=batch.ispb or None, changed=skipped > 0)

        while True:
            try:
                return await self._claim(mutation.renewed(), request)
            except _OnlyDeletedCids:
                if deadline.has_passed():
                    raise TooManySkipped from None
            await self._mutations.execute(mutation.part(), skip, never_again)

    async def _claim(self, mutation: Mutation, request: _ClaimRequest) -> SyncClaim:
        """Claims in one transaction. Raises _OnlyDeletedCids, except for a mutation that is only validated."""

        async def work(session: Session) -> Outcome[SyncClaim]:
            now, ispb = await self._lock.lock_shared(
                session, request.batch_id, mutation.request_id, scope=request.scope
            )
            claim = SyncClaim([], mutation.audit_id, now + request.lease)
            skipped = await self._fill(session, request, claim, now)
            while skipped and not claim.records:
                if not mutation.validate_only:
                    raise _OnlyDeletedCids
                if request.deadline.has_passed():
                    raise TooManySkipped
                await self._skip(session, request.batch_id, now)
                skipped = await self._fill(session, request, claim, now)
            if not claim.records:
                return Outcome(SyncClaim([]), b"", changed=False)
            answer = mutation.audit_id.bytes + (now + request.lease).isoformat().encode()
            payload = {**request.payload, "claimed": len(claim.records), "skipped": skipped}
            ispb = ispb or single_ispb(record.ispb for record in claim.records) or ""
            return Outcome(claim, answer, payload, ispb=ispb or None)

        async def replay(session: Session, answer: bytes) -> SyncClaim:
            return await self._replay_claim(session, answer, request.scope)

        return await self._mutations.execute(mutation, work, replay)

    async def _fill(self, session: Session, request: _ClaimRequest, claim: SyncClaim, now: datetime) -> int:
        """Adds records to the claim. Returns the number of skipped records. Stops if it only finds deleted CIDs."""
        skipped = 0
        for _ in range(_MAX_ROUNDS):
            parameters = {
                "batch_id": request.batch_id,
                "now": now,
                "limit": request.max_records - len(claim.records),
                "claim_token": claim.token,
                "lease_until": claim.lease_expires_at,
            }
            rows = await session.all(self._queries["claim"], parameters)
            records = [CidRecord._make(row) for row in rows if row[0] is not None]
            claim.records.extend(records)
            deleted = len(rows) - len(records)
            skipped += deleted
            if not deleted or not claim.records:
                break
        await self._count_skipped(session, request.batch_id, skipped)
        return skipped

    async def _skip(self, session: Session, batch_id: UUID, now: datetime) -> int:
        """Skips those of the next records whose CIDs were deleted. Returns their number."""
        parameters = {"batch_id": batch_id, "now": now, "step": self._step}
        skipped = await session.run(self._queries["skip_deleted"], parameters)
        await self._count_skipped(session, batch_id, skipped)
        return skipped

    async def _count_skipped(self, session: Session, batch_id: UUID, skipped: int) -> None:
        if skipped:
            counts = {"batch_id": batch_id, "synced": 0, "failed": 0, "skipped": skipped}
            await session.run(self._queries["count_settled"], counts)

    async def _replay_claim(self, session: Session, answer: bytes, scope: Scope) -> SyncClaim:
        """Returns the same claim, without records that another worker has claimed since or that have changed."""
        if not answer:
            return SyncClaim([])
        token, until = UUID(bytes=answer[:16]), datetime.fromisoformat(answer[16:].decode())
        rows = await session.all(self._queries["claimed_records"], {"claim_token": token})
        records = [record for record in map(CidRecord._make, rows) if record.ispb in scope]
        return SyncClaim(records, token, until) if records else SyncClaim([])

    async def extend(self, mutation: Mutation, token: UUID, *, lease: timedelta, scope: Scope) -> Extension:
        """Extends the lease from now on, also an expired one whose records no other worker has claimed.

        Raises ClaimNotFound, InvalidTransition.
        """

        async def work(session: Session) -> Outcome[Extension]:
            batch_id, ispb = await self._lock.batch_of_claim(
                session, token, caller=mutation.call.principal, scope=scope
            )
            until = (await self._lock.lock_shared(session, batch_id, mutation.request_id, scope=scope)).now + lease
            extended = await session.run(self._queries["extend"], {"claim_token": token, "lease_until": until})
            if not extended:
                raise ClaimNotFound
            payload = {"batch_id": str(batch_id), "claim_token": str(token), "extended": extended}
            return Outcome(Extension(extended, until), f"{extended} {until.isoformat()}".encode(), payload, ispb=ispb)

        def decode(answer: bytes) -> Extension:
            extended, until = answer.decode().split(" ")
            return Extension(int(extended), datetime.fromisoformat(until))

        return await self._mutations.execute(mutation, work, replay_by(decode))

    async def release(self, mutation: Mutation, token: UUID, *, scope: Scope) -> int:
        """Releases the records of a claim, whatever the status of the batch. Returns their number.

        Raises ClaimNotFound.
        """

        async def work(session: Session) -> Outcome[int]:
            batch_id, ispb = await self._lock.batch_of_claim(
                session, token, caller=mutation.call.principal, scope=scope
            )
            released = await session.run(self._queries["release"], {"claim_token": token})
            payload = {"batch_id": str(batch_id), "claim_token": str(token), "released": released}
            return Outcome(released, str(released).encode(), payload, ispb=ispb, changed=released > 0)

        return await self._mutations.execute(mutation, work, replay_by(int))

    async def report(
        self, mutation: Mutation, token: UUID, results: Sequence[SyncResult], *, scope: Scope
    ) -> list[ReportOutcome]:
        """Returns the outcome of each result, in the same order. Raises ClaimNotFound, InvalidTransition."""

        async def work(session: Session) -> Outcome[list[ReportOutcome]]:
            batch_id, ispb = await self._lock.batch_of_claim(
                session, token, caller=mutation.call.principal, scope=scope
            )
            await self._lock.lock_shared(session, batch_id, mutation.request_id, scope=scope)
            parameters = {"batch_id": batch_id, "cids": [result.cid for result in results]}
            rows = await session.all(self._queries["lock_records"], parameters)
            records = {row[0]: BatchRecord._make(row[1:]) for row in rows}
            outcomes = {result.cid: report_outcome(result, records.get(result.cid), token) for result in results}
            accepted = [result for result in results if outcomes[result.cid] is ReportOutcome.APPLIED]
            settled = await self._apply(session, accepted, records)
            outcomes.update((cid, ReportOutcome.STALE) for cid, to in settled.items() if to is RecordOutcome.SKIPPED)
            if settled:
                await self._settle(session, batch_id, settled)
            answer = [outcomes[result.cid] for result in results]
            counts = _counts(settled) | {
                "repeated": answer.count(ReportOutcome.REPEATED),
                "stale": answer.count(ReportOutcome.STALE),
            }
            payload = {"batch_id": str(batch_id), "claim_token": str(token), **counts}
            return Outcome(answer, bytes(answer), payload, ispb=ispb, changed=bool(settled))

        return await self._mutations.execute(mutation, work, replay_by(lambda answer: list(map(ReportOutcome, answer))))

    async def _apply(
        self, session: Session, results: Sequence[SyncResult], records: Mapping[bytes, BatchRecord]
    ) -> dict[bytes, RecordOutcome]:
        """Updates the CIDs. Returns the outcome of each record: SKIPPED if its CID has changed since the claim."""
        if not results:
            return {}
        parameters = {
            "cids": [result.cid for result in results],
            "ids": [records[result.cid].cid_id for result in results],
            "revisions": [records[result.cid].cid_revision for result in results],
            "statuses": [result.sync_status for result in results],
            "errors": [result.error for result in results],
        }
        updated = {row[0] for row in await session.all(self._queries["apply_results"], parameters)}
        return {
            result.cid: _OUTCOMES[result.sync_status] if result.cid in updated else RecordOutcome.SKIPPED
            for result in results
        }

    async def _settle(self, session: Session, batch_id: UUID, settled: Mapping[bytes, RecordOutcome]) -> None:
        records = {"batch_id": batch_id, "cids": list(settled), "outcomes": [int(to) for to in settled.values()]}
        await session.run(self._queries["settle_records"], records)
        # Last, because all reports of the batch contend for this row.
        await session.run(self._queries["count_settled"], {"batch_id": batch_id, **_counts(settled)})


def _counts(settled: Mapping[bytes, RecordOutcome]) -> dict[str, int]:
    counts = Counter(settled.values())
    return {outcome.name.lower(): counts[outcome] for outcome in RecordOutcome}
