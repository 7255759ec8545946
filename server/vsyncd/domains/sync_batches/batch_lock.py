"""The gate of a batch: workers pass it together, while its state stands; whoever changes the state passes it alone.

Everyone takes locks in this order: all batches, a request, one batch, its records by cid, cids by cid, the batch's row.
"""

from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from vsyncd.core.errors import FailedPrecondition, NotFound
from vsyncd.domains.sync_batches.records import SyncBatch
from vsyncd.domains.sync_batches.states import BatchStatus, check_running, check_transition
from vsyncd.postgres.mutations import Outcome
from vsyncd.postgres.queries import queries
from vsyncd.postgres.session import Session

CLAIM_METHOD: Final = "vsync.v1.SyncBatchService/ClaimSyncRecords"


class BatchNotFound(NotFound):
    """No batch has this name."""

    def __init__(self) -> None:
        super().__init__("BATCH_NOT_FOUND", "There is no such batch.")


class ClaimNotFound(NotFound):
    """No such claim was ever made, or nothing is under it any more."""

    def __init__(self) -> None:
        super().__init__("CLAIM_NOT_FOUND", "There is no such claim, or none of its records is under it any more.")


class BatchOverlaps(FailedPrecondition):
    """Another batch over some of the same CIDs is open, or was given up while workers held records of it."""

    def __init__(self, batch_id: UUID, leased_until: datetime | None) -> None:
        if leased_until is None:
            message = "Another batch over some of the same CIDs is open: complete it or give it up first."
            metadata = {"open_id": str(batch_id)}
        else:
            until = leased_until.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")  # RFC 3339
            message = "Some of the same CIDs are leased under a FAILED batch: release them, or let the leases run out."
            metadata = {"failed_id": str(batch_id), "leased_until": until}
        super().__init__("BATCH_OVERLAPS", message, metadata=metadata)


class BatchLock:
    """What is asked of a batch's row inside a transaction. Every lock holds until the transaction ends."""

    def __init__(self, schema: str) -> None:
        self._queries = queries("vsyncd.domains.sync_batches", schema)

    async def batch_of_claim(self, session: Session, token: UUID) -> UUID:
        """The batch that a claim was made on. Raises ClaimNotFound when the token never was a claim's."""
        row = await session.one(self._queries["batch_of_claim"], {"claim_token": token, "action": CLAIM_METHOD})
        if row is None:
            raise ClaimNotFound
        batch_id: UUID = row[0]
        return batch_id

    async def enter(self, session: Session, batch_id: UUID, request_id: UUID | None) -> datetime:
        """Pass together with others, but not with the same request. The database's clock then.

        Raises BatchNotFound, InvalidTransition.
        """
        await session.run(self._queries["share_batch"], {"id": batch_id, "request_id": request_id})
        # Only a statement that begins after the lock was got sees what those who held it before have committed.
        row = await session.one(self._queries["batch_state"], {"id": batch_id})
        if row is None:
            raise BatchNotFound
        check_running(row[0])
        now: datetime = row[1]
        return now

    async def close(self, session: Session, batch_id: UUID) -> SyncBatch:
        """Pass alone. The batch. Raises BatchNotFound."""
        await session.run(self._queries["lock_batch"], {"id": batch_id})
        return await self.read(session, batch_id)

    async def read(self, session: Session, batch_id: UUID) -> SyncBatch:
        """The batch, with the leases that hold now. Raises BatchNotFound."""
        row = await session.one(self._queries["batch_by_id"], {"id": batch_id})
        if row is None:
            raise BatchNotFound
        return SyncBatch._make(row)

    async def lock_all(self, session: Session) -> None:
        """Keep every other batch from being opened."""
        await session.run(self._queries["lock_batches"])

    async def check_overlap(self, session: Session, batch_id: UUID, ispb: str) -> None:
        """After `lock_all`. Raises BatchOverlaps when a batch other than this is open over CIDs of this ispb, or is
        FAILED and has a lease that holds.

        Such a lease ends by its time at the latest: only what is RUNNING has leases made and extended.
        """
        row = await session.one(self._queries["overlapping_batch"], {"id": batch_id, "ispb": ispb})
        if row is not None:
            raise BatchOverlaps(row[0], row[1])

    async def move(
        self, session: Session, batch: SyncBatch, status: BatchStatus, *, error_message: str = ""
    ) -> Outcome[SyncBatch]:
        """After `close`: the batch in its new state. Raises InvalidTransition."""
        check_transition(batch.status, status)
        await session.run(
            self._queries["set_status"], {"id": batch.id, "status": int(status), "error_message": error_message}
        )
        moved = await self.read(session, batch.id)
        payload = {"batch_id": str(batch.id), "from": BatchStatus(batch.status).name, "to": status.name}
        return Outcome(moved, moved.dump(), payload, ispb=moved.ispb or None)
