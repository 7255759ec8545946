"""Claims: records of a running batch that are one worker's until a lease ends, by the database's clock.

A claim's token is the id of its audit entry.
"""

from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from vsyncd.cids.records import CidRecord
from vsyncd.postgres.database import Database
from vsyncd.postgres.mutations import Mutation, Mutations, Outcome
from vsyncd.postgres.queries import queries
from vsyncd.postgres.session import Session
from vsyncd.sync_batches.gate import ClaimNotFound, Gate
from vsyncd.sync_batches.records import Claim, Extension, RecordOutcome

# So often, in one claim, records whose CIDs are gone are replaced by others.
_ROUNDS: Final = 100


class SyncClaimRepository:
    """Claiming, extending, releasing: the leases in sync_batch_records."""

    def __init__(self, database: Database, mutations: Mutations) -> None:
        self._mutations = mutations
        self._queries = queries("vsyncd.sync_batches", database.schema)
        self._gate = Gate(database.schema)

    async def claim(self, mutation: Mutation, batch_id: UUID, *, worker_id: str, most: int, lease: timedelta) -> Claim:
        """At most so many records that nobody holds. Those whose CIDs are gone are counted as skipped, and left out.

        The mutation's method must be gate.CLAIM_METHOD. Raises BatchNotFound, InvalidTransition.
        """

        async def work(session: Session) -> Outcome[Claim]:
            now = await self._gate.enter(session, batch_id, mutation.request_id)
            claim = Claim([], mutation.audit_id, now + lease)
            skipped = await self._fill(session, batch_id, claim, now, most)
            payload = {
                "batch_id": str(batch_id),
                "worker_id": worker_id,
                "claimed": len(claim.records),
                "skipped": skipped,
            }
            if not claim.records:
                return Outcome(Claim([]), b"", payload, changed=skipped > 0)
            answer = mutation.audit_id.bytes + (now + lease).isoformat().encode()
            return Outcome(claim, answer, payload)

        return await self._mutations.execute(mutation, work, self._replay)

    async def _fill(self, session: Session, batch_id: UUID, claim: Claim, now: datetime, most: int) -> int:
        """Put records into the claim; how many were skipped."""
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
            claim.records.extend(CidRecord._make(row[1:]) for row in rows if row[1] is not None)
            gone = [row[0] for row in rows if row[1] is None]
            if not gone:
                break
            await self._skip(session, batch_id, gone)
            skipped += len(gone)
        if skipped:
            counts = {"batch_id": batch_id, "synced": 0, "failed": 0, "skipped": skipped}
            await session.run(self._queries["count_settled"], counts)
        return skipped

    async def _skip(self, session: Session, batch_id: UUID, gone: list[bytes]) -> None:
        outcomes = [int(RecordOutcome.SKIPPED)] * len(gone)
        parameters = {"batch_id": batch_id, "cids": gone, "outcomes": outcomes}
        await session.run(self._queries["settle_records"], parameters)

    async def _replay(self, session: Session, answer: bytes) -> Claim:
        """The same claim, its records as they are now; without those that somebody else has by now."""
        if not answer:
            return Claim([])
        token, until = UUID(bytes=answer[:16]), datetime.fromisoformat(answer[16:].decode())
        rows = await session.all(self._queries["claimed_records"], {"claim_token": token})
        return Claim([CidRecord._make(row) for row in rows], token, until)

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
