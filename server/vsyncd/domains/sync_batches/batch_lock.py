"""The lock of a batch: shared while its status must not change, exclusive to change it.

All transactions acquire locks in this order: all batches, a request, one batch, its records by cid, cids by cid, the
batch's row.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final, NamedTuple
from uuid import UUID

from vsyncd.core.errors import FailedPrecondition, NotFound
from vsyncd.core.scope import ALL, Scope
from vsyncd.domains.cids.records import CID_COLUMNS
from vsyncd.domains.sync_batches.records import SyncBatch
from vsyncd.domains.sync_batches.states import BatchStatus, check_running, check_transition
from vsyncd.postgres.mutations import Outcome, replay_by
from vsyncd.postgres.queries import Queries, Session, queries

CLAIM_METHOD: Final = "vsync.v1.SyncBatchService/ClaimSyncRecords"


class BatchNotFound(NotFound):
    """The batch does not exist."""

    def __init__(self) -> None:
        super().__init__("BATCH_NOT_FOUND", "The batch does not exist.")


class ClaimNotFound(NotFound):
    """The claim does not exist, or has no records any more."""

    def __init__(self) -> None:
        super().__init__("CLAIM_NOT_FOUND", "The claim does not exist, or has no records any more.")


class BatchOverlaps(FailedPrecondition):
    """Another batch with some of the same CIDs is open, or has FAILED while workers held leases.

    `is_visible`: that batch is in the caller's scope. Otherwise the error has nothing of it.
    """

    def __init__(self, batch_id: UUID, leased_until: datetime | None, *, is_visible: bool) -> None:
        if leased_until is None:
            message = "Another batch with some of the same CIDs is open: complete it or fail it first."
            metadata = {"open_id": str(batch_id)}
        else:
            until = leased_until.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")  # RFC 3339
            message = (
                "Some of the same CIDs are leased under a FAILED batch: release them, or wait for the leases' end."
            )
            metadata = {"failed_id": str(batch_id), "leased_until": until}
        super().__init__("BATCH_OVERLAPS", message, metadata=metadata if is_visible else None)


def batch_queries(schema: str) -> Queries:
    return queries("vsyncd.domains.sync_batches", schema, cid_columns=CID_COLUMNS)


class ClaimOrigin(NamedTuple):
    """The batch of a claim, and the participant of its records; None if they are of several ones."""

    batch_id: UUID
    ispb: str | None


class RunningBatch(NamedTuple):
    """A batch that this transaction has locked: the database's time after that, and the batch's ispb, or empty."""

    now: datetime
    ispb: str


class BatchLock:
    """Locks and reads a batch in a transaction. A lock is held until the transaction ends."""

    def __init__(self, schema: str) -> None:
        self._queries = batch_queries(schema)

    async def batch_of_claim(self, session: Session, token: UUID, *, caller: str, scope: Scope) -> ClaimOrigin:
        """Returns the batch of a claim.

        Raises ClaimNotFound if this caller has no such claim, or the batch is outside the scope.
        """
        parameters = {"claim_token": token, "action": CLAIM_METHOD, "caller": caller}
        row = await session.one(self._queries["batch_of_claim"], parameters)
        if row is None:
            raise ClaimNotFound
        origin = ClaimOrigin(*row)
        if scope.is_restricted:
            batch = await session.one(self._queries["batch_status"], {"id": origin.batch_id})
            if batch is None or batch[2] not in scope:
                raise ClaimNotFound
        return origin

    async def lock_shared(
        self, session: Session, batch_id: UUID, request_id: UUID | None, *, scope: Scope
    ) -> RunningBatch:
        """Locks a RUNNING batch together with other workers.

        Executions of the same request exclude each other. Raises BatchNotFound, InvalidTransition.
        """
        await session.run(self._queries["lock_batch_shared"], {"id": batch_id, "request_id": request_id})
        # Only a statement that begins after the lock was acquired sees the changes of earlier holders.
        row = await session.one(self._queries["batch_status"], {"id": batch_id})
        if row is None or row[2] not in scope:
            raise BatchNotFound
        check_running(row[0])
        return RunningBatch(*row[1:])

    async def lock_exclusive(self, session: Session, batch_id: UUID, *, scope: Scope) -> SyncBatch:
        """Locks a batch exclusively and returns it. Raises BatchNotFound."""
        await session.run(self._queries["lock_batch"], {"id": batch_id})
        return await self.read(session, batch_id, scope=scope)

    async def read(self, session: Session, batch_id: UUID, *, scope: Scope) -> SyncBatch:
        """Returns the batch with the current leases. Raises BatchNotFound."""
        row = await session.one(self._queries["batch_by_id"], {"id": batch_id})
        batch = SyncBatch._make(row) if row is not None else None
        if batch is None or batch.ispb not in scope:
            raise BatchNotFound
        return batch

    async def lock_all(self, session: Session) -> None:
        """Prevents that other transactions open a batch."""
        await session.run(self._queries["lock_batches"])

    async def check_overlap(self, session: Session, batch_id: UUID, ispb: str, *, scope: Scope) -> None:
        """Raises BatchOverlaps if another batch with CIDs of this ispb is open, or is FAILED and has active leases.

        Requires `lock_all`. Such leases end in time, because only those of a RUNNING batch are extended.
        """
        row = await session.one(self._queries["overlapping_batch"], {"id": batch_id, "ispb": ispb})
        if row is not None:
            raise BatchOverlaps(row[0], row[1], is_visible=row[2] in scope)

    async def set_status(
        self, session: Session, batch: SyncBatch, status: BatchStatus, *, error_message: str = ""
    ) -> Outcome[SyncBatch]:
        """Changes the status. Requires `lock_exclusive`. Raises InvalidTransition."""
        check_transition(batch.status, status)
        await session.run(
            self._queries["set_status"], {"id": batch.id, "status": int(status), "error_message": error_message}
        )
        changed = await self.read(session, batch.id, scope=ALL)  # its caller has found the batch in the scope
        payload = {"batch_id": str(batch.id), "from": BatchStatus(batch.status).name, "to": status.name}
        return Outcome(changed, changed.dump(), payload, ispb=changed.ispb or None)


def replay_batch(scope: Scope) -> Callable[[Session, bytes], Awaitable[SyncBatch]]:
    """Returns the `replay` that returns the batch as it was when the request took effect. Raises BatchNotFound."""

    def decode(answer: bytes) -> SyncBatch:
        batch = SyncBatch.load(answer)
        if batch.ispb not in scope:  # it was in the scope when the request took effect
            raise BatchNotFound
        return batch

    return replay_by(decode)
