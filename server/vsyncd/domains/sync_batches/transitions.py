"""Changes the status of a batch.

Starting and retrying a batch can change any number of records. They do so in steps, each committed by itself, so that
no transaction holds locks for long and an interruption loses little. Only the last transaction stores the request_id:
a repeated call continues after the last step. A step holds the batch's lock and reads how much is done, so it can be
repeated after a commit with unknown outcome.
"""

from dataclasses import replace
from typing import Final
from uuid import UUID

from vsyncd.core.errors import FailedPrecondition
from vsyncd.core.scope import Scope
from vsyncd.domains.sync_batches.batch_lock import BatchLock, batch_queries, replay_batch
from vsyncd.domains.sync_batches.deadline import StepDeadline
from vsyncd.domains.sync_batches.records import SyncBatch
from vsyncd.domains.sync_batches.states import BatchStatus, check_transition, status_after_retry
from vsyncd.postgres.database import Database
from vsyncd.postgres.mutations import Mutation, Mutations, Outcome, never_again
from vsyncd.postgres.queries import Session

STEP_RECORDS: Final = 10_000


class _StepsRemain(Exception):  # noqa: N818  it rolls the last transaction back, which would store the request_id
    """The last transaction needs steps to be executed first."""

    def __init__(self, batch: SyncBatch) -> None:
        self.batch = batch


class SyncBatchTransitions:
    """Starts, completes, fails and retries batches. `step` is the number of records that one transaction changes."""

    def __init__(self, database: Database, mutations: Mutations, *, step: int = STEP_RECORDS) -> None:
        self._database = database
        self._mutations = mutations
        self._queries = batch_queries(database.schema)
        self._lock = BatchLock(database.schema)
        self._step = step

    async def start(self, mutation: Mutation, batch_id: UUID, *, scope: Scope) -> SyncBatch:
        """Adds the PENDING CIDs to a batch and makes it RUNNING.

        Returns it in status STARTING if the call has no time left: the caller repeats the call. The batch receives the
        CIDs that are PENDING when the call begins, up to the greatest id at that moment, so that the call ends although
        new CIDs are created. A CID that becomes PENDING with a smaller id than the last examined one is left to the
        next batch. Raises BatchNotFound, InvalidTransition.
        """
        deadline = StepDeadline(mutation.call)
        complete = False

        async def run(session: Session) -> Outcome[SyncBatch]:
            return await self._run(session, mutation, batch_id, scope, intake_complete=complete)

        while True:
            try:
                return await self._mutations.execute(mutation.renewed(), run, replay_batch(scope))
            except _StepsRemain as remaining:
                if remaining.batch.status == BatchStatus.PENDING:
                    await self._begin_intake(mutation, batch_id, scope)
            complete = await self._take_in(mutation, batch_id, deadline, scope)
            if not complete:
                return await self._database.read(lambda session: self._lock.read(session, batch_id, scope=scope))

    async def _run(
        self, session: Session, mutation: Mutation, batch_id: UUID, scope: Scope, *, intake_complete: bool
    ) -> Outcome[SyncBatch]:
        """Makes a STARTING batch RUNNING. Raises _StepsRemain if the intake is not complete."""
        batch = await self._lock.lock_exclusive(session, batch_id, scope=scope)
        if batch.status == BatchStatus.STARTING and intake_complete and not mutation.validate_only:
            return await self._lock.set_status(session, batch, BatchStatus.RUNNING)
        if batch.status not in {BatchStatus.STARTING, BatchStatus.RUNNING}:
            check_transition(batch.status, BatchStatus.STARTING)
            if mutation.validate_only:
                return await self._lock.set_status(session, batch, BatchStatus.STARTING)
        elif batch.status == BatchStatus.RUNNING or mutation.validate_only:
            return Outcome(batch, batch.dump(), changed=False)
        raise _StepsRemain(batch)

    async def _begin_intake(self, mutation: Mutation, batch_id: UUID, scope: Scope) -> None:
        async def work(session: Session) -> Outcome[SyncBatch]:
            batch = await self._lock.lock_exclusive(session, batch_id, scope=scope)
            if batch.status != BatchStatus.PENDING:  # another call has begun
                return Outcome(batch, b"", changed=False)
            return await self._lock.set_status(session, batch, BatchStatus.STARTING)

        await self._mutations.execute(mutation.part(), work, never_again)

    async def _take_in(self, mutation: Mutation, batch_id: UUID, deadline: StepDeadline, scope: Scope) -> bool:
        """Adds CIDs in steps. Returns whether the intake is complete; otherwise the deadline has passed."""
        last = await self._database.read(lambda session: session.one(self._queries["last_pending_cid"]))
        if last is None:
            return True

        async def step(session: Session) -> Outcome[bool]:
            batch = await self._lock.lock_exclusive(session, batch_id, scope=scope)
            if batch.status != BatchStatus.STARTING:  # another call has ended the intake or failed the batch
                return Outcome(True, b"", changed=False)
            parameters = {"id": batch_id, "ispb": batch.ispb, "last": last[0], "step": self._step}
            examined, taken_in = await session.single(self._queries["take_in"], parameters)
            payload = {"batch_id": str(batch_id), "taken_in": taken_in}
            return Outcome(examined < self._step, b"", payload, ispb=batch.ispb or None, changed=taken_in > 0)

        while not await self._mutations.execute(mutation.part(), step, never_again):
            if deadline.has_passed():
                return False
        return True

    async def complete(self, mutation: Mutation, batch_id: UUID, *, scope: Scope) -> SyncBatch:
        """Completes a batch. Raises BatchNotFound, InvalidTransition, FailedPrecondition (BATCH_INCOMPLETE)."""

        async def work(session: Session) -> Outcome[SyncBatch]:
            batch = await self._lock.lock_exclusive(session, batch_id, scope=scope)
            check_transition(batch.status, BatchStatus.COMPLETED)
            if batch.synced_records + batch.failed_records + batch.skipped_records != batch.total_records:
                raise _incomplete(batch)
            return await self._lock.set_status(session, batch, BatchStatus.COMPLETED)

        return await self._mutations.execute(mutation, work, replay_batch(scope))

    async def fail(self, mutation: Mutation, batch_id: UUID, *, error_message: str, scope: Scope) -> SyncBatch:
        """Fails a batch. Its leases remain, so that workers can continue after a retry.

        Raises BatchNotFound, InvalidTransition.
        """

        async def work(session: Session) -> Outcome[SyncBatch]:
            batch = await self._lock.lock_exclusive(session, batch_id, scope=scope)
            return await self._lock.set_status(session, batch, BatchStatus.FAILED, error_message=error_message)

        return await self._mutations.execute(mutation, work, replay_batch(scope))

    async def retry(self, mutation: Mutation, batch_id: UUID, *, scope: Scope) -> SyncBatch:
        """Reopens the failed records of a FAILED batch and makes it RUNNING, or PENDING if it was never RUNNING.

        The CIDs of these records become PENDING. Raises BatchNotFound, InvalidTransition, BatchOverlaps.
        """

        async def finish(session: Session) -> Outcome[SyncBatch]:
            await self._lock.lock_all(session)
            batch = await self._lock.lock_exclusive(session, batch_id, scope=scope)
            status = status_after_retry(batch.status, was_running=batch.started_at is not None)
            await self._lock.check_overlap(session, batch_id, batch.ispb, scope=scope)
            if batch.failed_records > self._step and not mutation.validate_only:
                raise _StepsRemain(batch)
            reopened = await self._reopen(session, batch)
            outcome = await self._lock.set_status(session, batch, status)
            if mutation.validate_only:
                return replace(outcome, result=outcome.result._replace(failed_records=0))
            return replace(outcome, payload={**(outcome.payload or {}), "reopened": reopened})

        async def step(session: Session) -> Outcome[int]:
            await self._lock.lock_all(session)
            batch = await self._lock.lock_exclusive(session, batch_id, scope=scope)
            if batch.status != BatchStatus.FAILED:  # another call was faster: `finish` raises the error
                return Outcome(0, b"", changed=False)
            await self._lock.check_overlap(session, batch_id, batch.ispb, scope=scope)
            reopened = await self._reopen(session, batch)
            payload = {"batch_id": str(batch_id), "reopened": reopened}
            return Outcome(reopened, b"", payload, ispb=batch.ispb or None, changed=reopened > 0)

        while True:
            try:
                return await self._mutations.execute(mutation.renewed(), finish, replay_batch(scope))
            except _StepsRemain:
                await self._mutations.execute(mutation.part(), step, never_again)

    async def _reopen(self, session: Session, batch: SyncBatch) -> int:
        """Reopens failed records of one step. Returns their number."""
        if not batch.failed_records:
            return 0
        row = await session.single(self._queries["reopen_failed"], {"id": batch.id, "step": self._step})
        return int(row[0])


def _incomplete(batch: SyncBatch) -> FailedPrecondition:
    counts = {
        "total": str(batch.total_records),
        "synced": str(batch.synced_records),
        "failed": str(batch.failed_records),
        "skipped": str(batch.skipped_records),
    }
    return FailedPrecondition("BATCH_INCOMPLETE", "Some records are neither reported nor skipped.", metadata=counts)
