"""VSyncs and their verifications in PostgreSQL."""

from collections.abc import Sequence
from datetime import UTC
from typing import Final
from uuid import UUID

from vsyncd.core.ids import ceiling_at, time_of
from vsyncd.domains.reconciliation.records import (
    KEY_TYPES,
    NewVsyncVerification,
    VerificationFilter,
    Vsync,
    VsyncVerification,
)
from vsyncd.postgres.consistency import Reads
from vsyncd.postgres.database import Database
from vsyncd.postgres.mutations import Mutation, Mutations, Outcome
from vsyncd.postgres.queries import Queries, queries
from vsyncd.postgres.session import Session

_LEAST: Final = UUID(int=0)
_GREATEST: Final = UUID(int=(1 << 128) - 1)


async def kept_vsyncs(session: Session, named: Queries, ispb: str, key_types: Sequence[int]) -> list[Vsync]:
    """The kept VSyncs of these key types, in their order, as the session's snapshot has them."""
    parameters = {"ispb": ispb, "key_types": list(key_types)}
    return [Vsync(*row) for row in await session.all(named["vsyncs"], parameters)]


class VsyncRepository:
    """The VSyncs that are kept, and what the directory said of them."""

    def __init__(self, database: Database, mutations: Mutations) -> None:
        self._database = database
        self._mutations = mutations
        self._queries = queries("vsyncd.domains.reconciliation", database.schema)

    async def vsync(self, ispb: str, key_type: int) -> Vsync:
        """One key type's."""

        async def work(session: Session) -> list[Vsync]:
            return await kept_vsyncs(session, self._queries, ispb, [key_type])

        return (await self._database.read(work, Reads.SINGLE))[0]

    async def vsyncs(self, ispb: str) -> list[Vsync]:
        """Every key type's, of one snapshot."""

        async def work(session: Session) -> list[Vsync]:
            return await kept_vsyncs(session, self._queries, ispb, KEY_TYPES)

        return await self._database.read(work, Reads.MANY)

    async def record(self, mutation: Mutation, new: NewVsyncVerification) -> VsyncVerification:
        """The verification as it was recorded, with what we hold at that moment."""

        async def work(session: Session) -> Outcome[VsyncVerification]:
            [ours] = await kept_vsyncs(session, self._queries, new.ispb, [new.key_type])
            parameters = {
                **new._asdict(),
                "id": mutation.audit_id,
                "created_at": time_of(mutation.audit_id),
                "directory_verification_id": new.directory_verification_id or None,
                "our_vsync": ours.vsync,
                "our_count": ours.size,
                "actor": mutation.call.actor,
            }
            row = await session.one(self._queries["record_verification"], parameters)
            if row is None:
                raise AssertionError("INSERT ... SELECT of one row gives one back")
            verification = VsyncVerification(*row)
            return Outcome(verification, verification.id.bytes, _payload(verification), ispb=new.ispb)

        async def replay(session: Session, answer: bytes) -> VsyncVerification:
            row = await session.one(self._queries["get_verification"], {"id": UUID(bytes=answer)})
            if row is None:
                raise AssertionError("verifications are append-only")
            return VsyncVerification(*row)

        return await self._mutations.execute(mutation, work, replay)

    async def verifications(
        self, wanted: VerificationFilter, *, limit: int, below: UUID | None = None
    ) -> list[VsyncVerification]:
        """The newest `limit` that match, newest first; only those with an id less than `below`."""
        from_id = ceiling_at(wanted.created_after) if wanted.created_after else _LEAST
        upper = ceiling_at(wanted.created_before) if wanted.created_before else _GREATEST
        parameters = {
            **wanted._asdict(),
            "from": from_id,
            "below": upper if below is None else min(upper, below),
            "limit": limit,
        }

        async def work(session: Session) -> list[VsyncVerification]:
            return [
                VsyncVerification(*row) for row in await session.all(self._queries["list_verifications"], parameters)
            ]

        return await self._database.read(work, Reads.MANY)


def _payload(verification: VsyncVerification) -> dict[str, object]:
    """What the audit entry says: VSyncs are of sets, and tell of nobody."""
    return {
        "ispb": verification.ispb,
        "key_type": verification.key_type,
        "directory_result": verification.directory_result,
        "submitted_vsync": verification.submitted_vsync.hex(),
        "our_vsync": verification.our_vsync.hex(),
        "our_count": verification.our_count,
        "last_ok_at": None if verification.last_ok_at is None else verification.last_ok_at.astimezone(UTC).isoformat(),
    }
