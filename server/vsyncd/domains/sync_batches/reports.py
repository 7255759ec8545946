"""Reports: what the directory said of claimed records. CIDs and counts change in one transaction."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

from vsyncd.domains.cids.records import FAILED, SYNCED
from vsyncd.domains.sync_batches.batch_lock import BatchLock
from vsyncd.domains.sync_batches.records import RecordOutcome, ReportOutcome, SyncResult
from vsyncd.postgres.database import Database
from vsyncd.postgres.mutations import Mutation, Mutations, Outcome
from vsyncd.postgres.queries import queries
from vsyncd.postgres.session import Session

_OUTCOMES: Mapping[int, RecordOutcome] = {SYNCED: RecordOutcome.SYNCED, FAILED: RecordOutcome.FAILED}


class Held(NamedTuple):
    """A record of the batch as a report finds it: whose it is, what was said of it before (None: nothing), and which
    record the claim handed out."""

    token: UUID | None
    outcome: int | None
    id: UUID | None = None
    revision: int | None = None


def judge(result: SyncResult, held: Held | None, token: UUID) -> ReportOutcome:
    """What to do with a result, the CID itself left aside. None: the batch has no such record.

    A lease that ran out does not matter as long as nobody else has claimed the record.
    """
    if held is None or held.token != token:
        return ReportOutcome.STALE
    if held.outcome is None:
        return ReportOutcome.APPLIED
    return ReportOutcome.REPEATED if held.outcome == _OUTCOMES[result.sync_status] else ReportOutcome.STALE


class SyncReportRepository:
    """Reporting: sync_batch_records, cids and the batch's counts together."""

    def __init__(self, database: Database, mutations: Mutations) -> None:
        self._mutations = mutations
        self._queries = queries("vsyncd.domains.sync_batches", database.schema)
        self._gate = BatchLock(database.schema)

    async def report(self, mutation: Mutation, token: UUID, results: Sequence[SyncResult]) -> list[ReportOutcome]:
        """What became of each result, in their order. Raises ClaimNotFound, InvalidTransition."""

        async def work(session: Session) -> Outcome[list[ReportOutcome]]:
            batch_id = await self._gate.batch_of_claim(session, token)
            await self._gate.enter(session, batch_id, mutation.request_id)
            held = await self._lock(session, batch_id, results)
            outcomes = {result.cid: judge(result, held.get(result.cid), token) for result in results}
            due = [result for result in results if outcomes[result.cid] is ReportOutcome.APPLIED]
            settled = await self._apply(session, due, held)
            outcomes.update((cid, ReportOutcome.STALE) for cid, to in settled.items() if to is RecordOutcome.SKIPPED)
            if settled:
                await self._settle(session, batch_id, settled)
            answer = [outcomes[result.cid] for result in results]
            payload = {"batch_id": str(batch_id), "claim_token": str(token), **_counts(settled), **_words(answer)}
            return Outcome(answer, bytes(answer), payload, changed=bool(settled))

        return await self._mutations.execute(mutation, work, _replay)

    async def _lock(self, session: Session, batch_id: UUID, results: Sequence[SyncResult]) -> dict[bytes, Held]:
        parameters = {"batch_id": batch_id, "cids": [result.cid for result in results]}
        rows = await session.all(self._queries["lock_records"], parameters)
        return {row[0]: Held._make(row[1:]) for row in rows}

    async def _apply(
        self, session: Session, due: Sequence[SyncResult], held: Mapping[bytes, Held]
    ) -> dict[bytes, RecordOutcome]:
        """What to note of each record: a CID that was changed or deleted since its claim is skipped."""
        if not due:
            return {}
        parameters = {
            "cids": [result.cid for result in due],
            "ids": [held[result.cid].id for result in due],
            "revisions": [held[result.cid].revision for result in due],
            "statuses": [result.sync_status for result in due],
            "errors": [result.error for result in due],
        }
        there = {row[0] for row in await session.all(self._queries["apply_results"], parameters)}
        return {
            result.cid: _OUTCOMES[result.sync_status] if result.cid in there else RecordOutcome.SKIPPED
            for result in due
        }

    async def _settle(self, session: Session, batch_id: UUID, settled: Mapping[bytes, RecordOutcome]) -> None:
        records = {"batch_id": batch_id, "cids": list(settled), "outcomes": [int(to) for to in settled.values()]}
        await session.run(self._queries["settle_records"], records)
        # Last: every report of the batch meets at this row.
        await session.run(self._queries["count_settled"], {"batch_id": batch_id, **_counts(settled)})


async def _replay(_session: Session, answer: bytes) -> list[ReportOutcome]:
    return [ReportOutcome(outcome) for outcome in answer]


def _counts(settled: Mapping[bytes, RecordOutcome]) -> dict[str, int]:
    values = list(settled.values())
    return {outcome.name.lower(): values.count(outcome) for outcome in RecordOutcome}


def _words(outcomes: Sequence[ReportOutcome]) -> dict[str, int]:
    """How many results were not applied, and why."""
    return {outcome.name.lower(): outcomes.count(outcome) for outcome in (ReportOutcome.REPEATED, ReportOutcome.STALE)}
