"""Claims: records of a running batch that are one worker's until a lease ends, by the database's clock.

A claim's token is the id of its audit entry.
"""

from datetime import datetime, timedelta
from typing import Final, NamedTuple
from uuid import UUID

from vsyncd.core.errors import Aborted
from vsyncd.domains.cids.records import CidRecord
from vsyncd.domains.sync_batches.batch_lock import BatchLock, ClaimNotFound
from vsyncd.domains.sync_batches.deadline import WorkDeadline
from vsyncd.domains.sync_batches.records import Extension, SyncClaim
from vsyncd.postgres.database import Database
from vsyncd.postgres.mutations import Mutation, Mutations, Outcome, never_again
from vsyncd.postgres.queries import queries
from vsyncd.postgres.session import Session

# So often a claim that has some records already replaces those whose CIDs are gone by others.
_ROUNDS: Final = 10
# At so many free records one step looks for those whose CIDs are gone.
STEP: Final = 10_000


class RecordsGone(Aborted):
    """The records that come next have lost their CIDs, so many that a call's time is too short to skip them all."""

    def __init__(self) -> None:
        message = "The CIDs of the next records are gone; those that were met are skipped. Try again."
        super().__init__("CONTENTION", message, retry_after=0.1)


class _OnlyGone(Exception):  # noqa: N818  inside this module: there are records to skip before there is one to claim
    pass


class _Wish(NamedTuple):
    """What one transaction is to claim; `payload` is the begin of its audit entry's."""

    mutation: Mutation
    batch_id: UUID
    payload: dict[str, str]
    most: int
    lease: timedelta
    hurry: WorkDeadline


class SyncClaimRepository:
    """Claiming, extending, releasing: the leases in sync_batch_records.

    `step` is the number of records of one transaction that skips those whose CIDs are gone.
    """

    def __init__(self, database: Database, mutations: Mutations, *, step: int = STEP) -> None:
        self._mutations = mutations
        self._step = step
        self._queries = queries("vsyncd.domains.sync_batches", database.schema)
        self._gate = BatchLock(database.schema)

    async def claim(
        self, mutation: Mutation, batch_id: UUID, *, worker_id: str, most: int, lease: timedelta
    ) -> SyncClaim:
        """At most so many records that nobody holds. Those whose CIDs are gone are counted as skipped, and left out:
        when there is nothing else at first, in steps that are committed one by one.

        The mutation's method must be gate.CLAIM_METHOD. Raises BatchNotFound, InvalidTransition, RecordsGone.
        """
        hurry = WorkDeadline(mutation.call)
        payload = {"batch_id": str(batch_id), "worker_id": worker_id}

        async def skip(session: Session) -> Outcome[None]:
            now = await self._gate.enter(session, batch_id, None)
            skipped = await self._skip(session, batch_id, now)
            return Outcome(None, b"", payload | {"claimed": 0, "skipped": skipped}, changed=skipped > 0)

        while True:
            wish = _Wish(mutation.renewed(), batch_id, payload, most, lease, hurry)
            try:
                return await self._claim(wish)
            except _OnlyGone:
                pass
            if hurry.is_short():
                raise RecordsGone
            await self._mutations.execute(mutation.part(), skip, never_again)

    async def _claim(self, wish: "_Wish") -> SyncClaim:
        """One transaction. Raises _OnlyGone when it would have to skip at first, unless it is only a check."""
        mutation = wish.mutation

        async def work(session: Session) -> Outcome[SyncClaim]:
            now = await self._gate.enter(session, wish.batch_id, mutation.request_id)
            claim = SyncClaim([], mutation.audit_id, now + wish.lease)
            skipped = await self._fill(session, wish.batch_id, claim, now, wish.most)
            while skipped and not claim.records:
                if not mutation.validate_only:
                    raise _OnlyGone
                if wish.hurry.is_short():
                    raise RecordsGone
                await self._skip(session, wish.batch_id, now)
                skipped = await self._fill(session, wish.batch_id, claim, now, wish.most)
            if not claim.records:
                return Outcome(SyncClaim([]), b"", changed=False)
            answer = mutation.audit_id.bytes + (now + wish.lease).isoformat().encode()
            return Outcome(claim, answer, {**wish.payload, "claimed": len(claim.records), "skipped": skipped})

        return await self._mutations.execute(mutation, work, self._replay)

    async def _fill(self, session: Session, batch_id: UUID, claim: SyncClaim, now: datetime, most: int) -> int:
        """Put records into the claim; how many were skipped. It ends where there are only such."""
        skipped = 0
        for _ in range(_ROUNDS):
            rows = await session.all(
                self._queries["claim"],
                {
                    "batch_id": batch_id,
                    "now": now,
                    "most": most - len(claim.records),
                    "claim_token": claim.token,
                    "lease_until": claim.lease_expires_at,
                },
            )
            there = [CidRecord._make(row) for row in rows if row[0] is not None]
            claim.records.extend(there)
            gone = len(rows) - len(there)
            skipped += gone
            if not gone or not claim.records:
                break
        await self._count(session, batch_id, skipped)
        return skipped

    async def _skip(self, session: Session, batch_id: UUID, now: datetime) -> int:
        """Skip what is gone of the next records; how many."""
        parameters = {"batch_id": batch_id, "now": now, "step": self._step}
        skipped = await session.run(self._queries["skip_gone"], parameters)
        await self._count(session, batch_id, skipped)
        return skipped

    async def _count(self, session: Session, batch_id: UUID, skipped: int) -> None:
        if skipped:
            counts = {"batch_id": batch_id, "synced": 0, "failed": 0, "skipped": skipped}
            await session.run(self._queries["count_settled"], counts)

    async def _replay(self, session: Session, answer: bytes) -> SyncClaim:
        """The same claim, without the records that somebody else has by now, or that were changed. None: no claim."""
        if not answer:
            return SyncClaim([])
        token, until = UUID(bytes=answer[:16]), datetime.fromisoformat(answer[16:].decode())
        rows = await session.all(self._queries["claimed_records"], {"claim_token": token})
        return SyncClaim([CidRecord._make(row) for row in rows], token, until) if rows else SyncClaim([])

    async def extend(self, mutation: Mutation, token: UUID, *, lease: timedelta) -> Extension:
        """The lease begins anew, also one that ran out, as long as nobody else took the records.

        Raises ClaimNotFound, InvalidTransition.
        """

        async def work(session: Session) -> Outcome[Extension]:
            batch_id = await self._gate.batch_of_claim(session, token)
            until = await self._gate.enter(session, batch_id, mutation.request_id) + lease
            extended = await session.run(self._queries["extend"], {"claim_token": token, "lease_until": until})
            if not extended:
                raise ClaimNotFound
            payload = {"batch_id": str(batch_id), "claim_token": str(token), "extended": extended}
            return Outcome(Extension(extended, until), f"{extended} {until.isoformat()}".encode(), payload)

        async def replay(_session: Session, answer: bytes) -> Extension:
            extended, until = answer.decode().split(" ")
            return Extension(int(extended), datetime.fromisoformat(until))

        return await self._mutations.execute(mutation, work, replay)

    async def release(self, mutation: Mutation, token: UUID) -> int:
        """How many records can be claimed again at once. In any state of the batch. Raises ClaimNotFound."""

        async def work(session: Session) -> Outcome[int]:
            batch_id = await self._gate.batch_of_claim(session, token)
            released = await session.run(self._queries["release"], {"claim_token": token})
            payload = {"batch_id": str(batch_id), "claim_token": str(token), "released": released}
            return Outcome(released, str(released).encode(), payload, changed=released > 0)

        async def replay(_session: Session, answer: bytes) -> int:
            return int(answer)

        return await self._mutations.execute(mutation, work, replay)
