"""Starting and retrying a batch: changes of state over any number of records, in steps that are committed one by one.

Each step is short, so that it neither holds locks for long nor is lost as a whole. Only the last transaction keeps the
request's id: a call that was interrupted is called again, and goes on from the last step. A step looks, alone with the
batch, at how far the batch has come: executed again after a commit of unknown outcome, it goes on behind itself.
"""

from dataclasses import replace
from typing import Final
from uuid import UUID

from vsyncd.domains.sync_batches.batch_lock import BatchLock
from vsyncd.domains.sync_batches.deadline import WorkDeadline
from vsyncd.domains.sync_batches.records import SyncBatch
from vsyncd.domains.sync_batches.repository import replay_batch
from vsyncd.domains.sync_batches.states import BatchStatus, check_transition, state_after_retry
from vsyncd.postgres.database import Database
from vsyncd.postgres.mutations import Mutation, Mutations, Outcome, never_again
from vsyncd.postgres.queries import queries
from vsyncd.postgres.session import Session

STEP: Final = 10_000


class _Unfinished(Exception):  # noqa: N818  inside this module: there are steps to do before the last transaction
    def __init__(self, batch: SyncBatch) -> None:
        self.batch = batch


class SyncBatchTransitions:
    """StartSyncBatch and RetrySyncBatch. `step` is the number of records of one transaction."""

    def __init__(self, database: Database, mutations: Mutations, *, step: int = STEP) -> None:
        self._database = database
        self._mutations = mutations
        self._queries = queries("vsyncd.domains.sync_batches", database.schema)
        self._gate = BatchLock(database.schema)
        self._step = step

    async def start(self, mutation: Mutation, batch_id: UUID) -> SyncBatch:
        """The batch, RUNNING; or STARTING, when most of the call's time was used up: call again.

        It takes in the CIDs that are PENDING up to the last one of the moment in which the call begins: under a stream
        of new CIDs it ends all the same. A CID that becomes PENDING behind the intake's back stays so, for the next
        batch: one that was updated, or whose id is smaller and was committed later. Raises BatchNotFound,
        InvalidTransition.
        """
        hurry = WorkDeadline(mutation.call)
        taken_in = False

        async def run(session: Session) -> Outcome[SyncBatch]:
            return await self._run(session, mutation, batch_id, taken_in=taken_in)

        while True:
            try:
                return await self._mutations.execute(mutation.renewed(), run, replay_batch)
            except _Unfinished as unfinished:
                if unfinished.batch.status == BatchStatus.PENDING:
                    await self._begin(mutation, batch_id)
            taken_in = await self._take_in(mutation, batch_id, hurry)
            if not taken_in:
                return await self._database.read(lambda session: self._gate.read(session, batch_id))

    async def _run(self, session: Session, mutation: Mutation, batch_id: UUID, *, taken_in: bool) -> Outcome[SyncBatch]:
        """From STARTING to RUNNING, when everything is taken in. Raises _Unfinished otherwise."""
        batch = await self._gate.close(session, batch_id)
        if batch.status == BatchStatus.RUNNING:
            return Outcome(batch, batch.dump(), changed=False)
        if batch.status != BatchStatus.STARTING:
            check_transition(batch.status, BatchStatus.STARTING)
            if mutation.validate_only:
                return await self._gate.move(session, batch, BatchStatus.STARTING)
            raise _Unfinished(batch)
        if mutation.validate_only:
            return Outcome(batch, batch.dump(), changed=False)
        if not taken_in:
            raise _Unfinished(batch)
        return await self._gate.move(session, batch, BatchStatus.RUNNING)

    async def _begin(self, mutation: Mutation, batch_id: UUID) -> None:
        async def work(session: Session) -> Outcome[SyncBatch]:
            batch = await self._gate.close(session, batch_id)
            if batch.status != BatchStatus.PENDING:  # somebody else was faster
                return Outcome(batch, b"", changed=False)
            return await self._gate.move(session, batch, BatchStatus.STARTING)

        await self._mutations.execute(mutation.part(), work, replay_batch)

    async def _take_in(self, mutation: Mutation, batch_id: UUID, hurry: WorkDeadline) -> bool:
        """Whether everything is taken in; False: the time ran short."""
        last = await self._database.read(lambda session: session.one(self._queries["last_pending_cid"]))
        if last is None:
            return True

        async def step(session: Session) -> Outcome[bool]:
            batch = await self._gate.close(session, batch_id)
            if batch.status != BatchStatus.STARTING:  # ended, or given up, by somebody else
                return Outcome(True, b"", changed=False)
            parameters = {"id": batch_id, "ispb": batch.ispb, "last": last[0], "step": self._step}
            row = await session.one(self._queries["take_in"], parameters)
            seen, taken_in = row or (0, 0)
            payload = {"batch_id": str(batch_id), "taken_in": taken_in}
            return Outcome(seen < self._step, b"", payload, ispb=batch.ispb or None, changed=taken_in > 0)

        while not await self._mutations.execute(mutation.part(), step, never_again):
            if hurry.is_short():
                return False
        return True

    async def retry(self, mutation: Mutation, batch_id: UUID) -> SyncBatch:
        """The batch, RUNNING with its failed records open again, or PENDING when it had never been RUNNING.

        Their CIDs become PENDING again. Raises BatchNotFound, InvalidTransition, BatchOverlaps.
        """

        async def finish(session: Session) -> Outcome[SyncBatch]:
            batch = await self._close_for_retry(session, batch_id)
            if batch.failed_records > self._step and not mutation.validate_only:
                raise _Unfinished(batch)
            opened = await self._reopen(session, batch)
            outcome = await self._gate.move(session, batch, _state_after_retry(batch))
            if mutation.validate_only:
                return replace(outcome, result=outcome.result._replace(failed_records=0))
            return replace(outcome, payload={**(outcome.payload or {}), "reopened": opened})

        async def step(session: Session) -> Outcome[int]:
            await self._gate.lock_all(session)
            batch = await self._gate.close(session, batch_id)
            if batch.status != BatchStatus.FAILED:  # somebody else was faster: the last transaction will tell
                return Outcome(0, b"", changed=False)
            await self._gate.check_overlap(session, batch_id, batch.ispb)
            opened = await self._reopen(session, batch)
            payload = {"batch_id": str(batch_id), "reopened": opened}
            return Outcome(opened, b"", payload, ispb=batch.ispb or None, changed=opened > 0)

        while True:
            try:
                return await self._mutations.execute(mutation.renewed(), finish, replay_batch)
            except _Unfinished:
                await self._mutations.execute(mutation.part(), step, never_again)

    async def _close_for_retry(self, session: Session, batch_id: UUID) -> SyncBatch:
        await self._gate.lock_all(session)
        batch = await self._gate.close(session, batch_id)
        _state_after_retry(batch)
        await self._gate.check_overlap(session, batch_id, batch.ispb)
        return batch

    async def _reopen(self, session: Session, batch: SyncBatch) -> int:
        if not batch.failed_records:
            return 0
        row = await session.one(self._queries["reopen_failed"], {"id": batch.id, "step": self._step})
        return int(row[0]) if row else 0


def _state_after_retry(batch: SyncBatch) -> BatchStatus:
    return state_after_retry(batch.status, was_running=batch.started_at is not None)
