"""Batches: creation, reading, and the changes of state that are one transaction (steps.py has the others)."""

from datetime import date
from typing import Final
from uuid import UUID

from vsyncd.core.errors import AlreadyExists, FailedPrecondition
from vsyncd.core.ids import new_id, time_of
from vsyncd.domains.sync_batches.batch_lock import BatchLock, BatchNotFound
from vsyncd.domains.sync_batches.records import BatchFilter, BatchPosition, SyncBatch
from vsyncd.domains.sync_batches.states import BatchStatus, check_transition
from vsyncd.postgres.consistency import ReadMode
from vsyncd.postgres.database import Database
from vsyncd.postgres.mutations import Mutation, Mutations, Outcome
from vsyncd.postgres.queries import queries
from vsyncd.postgres.session import Session

# Above every batch: "~" sorts behind every digit.
TOP: Final = BatchPosition(date.max, "~")


async def replay_batch(_session: Session, answer: bytes) -> SyncBatch:
    """The batch as it was when the request took effect."""
    return SyncBatch.load(answer)


class SyncBatchRepository:
    """The rows of sync_batches."""

    def __init__(self, database: Database, mutations: Mutations) -> None:
        self._database = database
        self._mutations = mutations
        self._queries = queries("vsyncd.domains.sync_batches", database.schema)
        self._gate = BatchLock(database.schema)

    async def create(self, mutation: Mutation, *, batch_date: date, ispb: str) -> SyncBatch:
        """A new batch, PENDING. Raises AlreadyExists (BATCH_EXISTS), BatchOverlaps."""

        async def work(session: Session) -> Outcome[SyncBatch]:
            batch_id = new_id()
            await self._gate.lock_all(session)
            parameters = {"id": batch_id, "batch_date": batch_date, "ispb": ispb, "created_at": time_of(batch_id)}
            if await session.one(self._queries["insert_batch"], parameters) is None:
                raise await self._exists(session, batch_date, ispb)
            await self._gate.check_overlap(session, batch_id, ispb)
            batch = await self._gate.read(session, batch_id)
            payload = {"batch_id": str(batch_id), "batch_date": batch_date.isoformat(), "ispb": ispb}
            return Outcome(batch, batch.dump(), payload)

        return await self._mutations.execute(mutation, work, replay_batch)

    async def _exists(self, session: Session, batch_date: date, ispb: str) -> AlreadyExists:
        # Batches are never deleted: what the insert met is there.
        existing = await self._get_by_key(session, batch_date, ispb)
        return AlreadyExists(
            "BATCH_EXISTS",
            "There is a batch of this day and ispb.",
            metadata={"existing_id": str(existing.id), "revision": str(existing.revision)},
        )

    async def get(self, batch_id: UUID) -> SyncBatch:
        """Raises BatchNotFound."""
        return await self._database.read(lambda session: self._gate.read(session, batch_id), ReadMode.PRIMARY_PREFERRED)

    async def get_by_key(self, batch_date: date, ispb: str) -> SyncBatch:
        """Raises BatchNotFound."""
        return await self._database.read(
            lambda session: self._get_by_key(session, batch_date, ispb), ReadMode.PRIMARY_PREFERRED
        )

    async def _get_by_key(self, session: Session, batch_date: date, ispb: str) -> SyncBatch:
        row = await session.one(self._queries["batch_id_by_key"], {"batch_date": batch_date, "ispb": ispb})
        if row is None:
            raise BatchNotFound
        return await self._gate.read(session, row[0])

    async def page(
        self, selection: BatchFilter, *, below: BatchPosition, size: int
    ) -> tuple[list[SyncBatch], BatchPosition | None]:
        """Up to `size` batches below a position, newest day first, and the position of the next page, if any."""
        name = "list_batches_by_status" if selection.status else "list_batches"
        parameters = {
            **selection._asdict(),
            "below_day": below.day,
            "below_ispb": below.ispb,
            "size": size + 1,
        }
        query = self._queries[name]
        rows = await self._database.read(lambda session: session.all(query, parameters), ReadMode.REPLICA_PREFERRED)
        batches = [SyncBatch._make(row) for row in rows[:size]]
        more = len(rows) > size
        return batches, BatchPosition(batches[-1].batch_date, batches[-1].ispb) if more else None

    async def complete(self, mutation: Mutation, batch_id: UUID) -> SyncBatch:
        """The batch, COMPLETED. Raises BatchNotFound, InvalidTransition, FailedPrecondition (BATCH_INCOMPLETE)."""

        async def work(session: Session) -> Outcome[SyncBatch]:
            batch = await self._gate.close(session, batch_id)
            check_transition(batch.status, BatchStatus.COMPLETED)
            if batch.synced_records + batch.failed_records + batch.skipped_records != batch.total_records:
                raise _incomplete(batch)
            return await self._gate.move(session, batch, BatchStatus.COMPLETED)

        return await self._mutations.execute(mutation, work, replay_batch)

    async def fail(self, mutation: Mutation, batch_id: UUID, *, error_message: str) -> SyncBatch:
        """The batch, FAILED. Leases stay: after a retry their workers go on.

        Raises BatchNotFound, InvalidTransition.
        """

        async def work(session: Session) -> Outcome[SyncBatch]:
            batch = await self._gate.close(session, batch_id)
            return await self._gate.move(session, batch, BatchStatus.FAILED, error_message=error_message)

        return await self._mutations.execute(mutation, work, replay_batch)


def _incomplete(batch: SyncBatch) -> FailedPrecondition:
    counts = {
        "total": str(batch.total_records),
        "synced": str(batch.synced_records),
        "failed": str(batch.failed_records),
        "skipped": str(batch.skipped_records),
    }
    return FailedPrecondition("BATCH_INCOMPLETE", "Some records are neither reported nor skipped.", metadata=counts)
