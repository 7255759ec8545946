"""Reports: the directory's results for claimed records. CIDs and the counts of the batch change in one transaction."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

from vsyncd.domains.cids.records import FAILED, SYNCED
from vsyncd.domains.sync_batches.batch_lock import BatchLock, batch_queries
from vsyncd.domains.sync_batches.records import RecordOutcome, ReportOutcome, SyncResult
from vsyncd.postgres.database import Database
from vsyncd.postgres.mutations import Mutation, Mutations, Outcome
from vsyncd.postgres.session import Session

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


class SyncReportRepository:
    """Reports results of claimed records."""

    def __init__(self, database: Database, mutations: Mutations) -> None:
        self._mutations = mutations
        self._queries = batch_queries(database.schema)
        self._lock = BatchLock(database.schema)

    async def report(self, mutation: Mutation, token: UUID, results: Sequence[SyncResult]) -> list[ReportOutcome]:
        """Returns the outcome of each result, in the same order. Raises ClaimNotFound, InvalidTransition."""

        async def work(session: Session) -> Outcome[list[ReportOutcome]]:
            batch_id = await self._lock.batch_of_claim(session, token)
            await self._lock.lock_shared(session, batch_id, mutation.request_id)
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
            return Outcome(answer, bytes(answer), payload, changed=bool(settled))

        return await self._mutations.execute(mutation, work, _replay)

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


async def _replay(_session: Session, answer: bytes) -> list[ReportOutcome]:
    return [ReportOutcome(outcome) for outcome in answer]


def _counts(settled: Mapping[bytes, RecordOutcome]) -> dict[str, int]:
    counts = Counter(settled.values())
    return {outcome.name.lower(): counts[outcome] for outcome in RecordOutcome}
