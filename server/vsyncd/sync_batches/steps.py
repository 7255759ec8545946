"""Starting and retrying a batch: changes of state over any number of records, in steps that are committed one by one.

Each step is short, so that it neither holds locks for long nor is lost as a whole. Only the last transaction keeps the
request's id: a call that was interrupted is called again, and goes on from the last step.
"""

from dataclasses import replace
from typing import Final
from uuid import UUID

from vsyncd.call import Call
from vsyncd.ids import new_id
from vsyncd.postgres.database import Database
from vsyncd.postgres.mutations import Mutation, Mutations, Outcome
from vsyncd.postgres.queries import queries
from vsyncd.postgres.session import Session
from vsyncd.sync_batches.gate import Gate
from vsyncd.sync_batches.records import SyncBatch
from vsyncd.sync_batches.repository import replay_batch
from vsyncd.sync_batches.states import BatchStatus, check_transition, state_after_retry

STEP: Final = 10_000
# The part of a call's time that is left for its last transaction and its answer.
_RESERVE: Final = 0.2


class _Unfinished(Exception):  # noqa: N818  inside this module: there are steps to do before the last transaction
    def __init__(self, batch: SyncBatch) -> None:
        self.batch = batch


class SyncBatchSteps:
    """StartSyncBatch and RetrySyncBatch. `step` is the number of records of one transaction."""

    def __init__(self, database: Database, mutations: Mutations, *, step: int = STEP) -> None:
        self._database = database
        self._mutations = mutations
        self._queries = queries("vsyncd.sync_batches", database.schema)
        self._gate = Gate(database.schema)
        self._step = step

    async def start(self, mutation: Mutation, batch_id: UUID) -> SyncBatch:
        """The batch, RUNNING; or STARTING, when most of the call's time was used up: call again.

        It takes in the CIDs that are PENDING up to the last one of the moment in which the call begins: under a stream
        of new CIDs it ends all the same. A CID that becomes PENDING behind the intake's back stays so, for the next
        batch: one that was updated, or whose id is smaller and was committed later. Raises BatchNotFound,
        InvalidTransition.
        """
        time = _Time(mutation.call)
        taken_in = False

        async def run(session: Session) -> Outcome[SyncBatch]:
            return await self._run(session, mutation, batch_id, taken_in=taken_in)

        while True:
            try:
                return await self._mutations.execute(_renewed(mutation), run, replay_batch)
            except _Unfinished as unfinished:
                if unfinished.batch.status == BatchStatus.PENDING:
                    await self._begin(mutation, batch_id)
            taken_in = await self._take_in(batch_id, time)
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

        await self._mutations.execute(_part_of(mutation), work, replay_batch)

    async def _take_in(self, batch_id: UUID, time: "_Time") -> bool:
        """Whether everything is taken in; False: the time ran short."""
        last = await self._database.read(lambda session: session.one(self._queries["last_pending_cid"]))
        if last is None:
            return True

        async def step(session: Session) -> bool:
            batch = await self._gate.close(session, batch_id)
            if batch.status != BatchStatus.STARTING:  # ended, or given up, by somebody else
                return True
            parameters = {"id": batch_id, "ispb": batch.ispb, "last": last[0], "step": self._step}
            row = await session.one(self._queries["take_in"], parameters)
            return row is None or row[0] < self._step

        while not await self._database.transaction(step, repeatable=True):
            if time.is_short():
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
            return Outcome(opened, b"", {"batch_id": str(batch_id), "reopened": opened})

        while True:
            try:
                return await self._mutations.execute(_renewed(mutation), finish, replay_batch)
            except _Unfinished:
                await self._mutations.execute(_part_of(mutation), step, _never)

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


def _renewed(mutation: Mutation) -> Mutation:
    """The mutation with an audit entry that sorts behind those of the steps before."""
    return replace(mutation, audit_id=new_id())


def _part_of(mutation: Mutation) -> Mutation:
    """A transaction of its own within a mutation, with its own audit entry."""
    return replace(_renewed(mutation), request_id=None)


async def _never(_session: Session, _answer: bytes) -> int:
    """Without a request's id there is nothing to answer again."""
    raise AssertionError


class _Time:
    """How much of a call's time is left."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._at_first = call.remaining()

    def is_short(self) -> bool:
        """Whether it is time to answer with what there is; never, for a call without a deadline."""
        remaining = self._call.remaining()
        return remaining is not None and self._at_first is not None and remaining < _RESERVE * self._at_first
