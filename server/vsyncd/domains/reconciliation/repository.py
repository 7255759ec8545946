"""Reads VSyncs, and reads and records their verifications."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from vsyncd.core.ids import id_range, time_of
from vsyncd.core.scope import Scope
from vsyncd.domains.reconciliation.records import (
    KEY_TYPES,
    NOK,
    OK,
    Group,
    NewVsyncVerification,
    VerificationFilter,
    Vsync,
    VsyncVerification,
)
from vsyncd.observability import sync_metrics
from vsyncd.postgres.consistency import ReadMode
from vsyncd.postgres.database import Database
from vsyncd.postgres.mutations import Mutation, Mutations, Outcome
from vsyncd.postgres.queries import Queries, Session, queries
from vsyncd.postgres.snapshots import Snapshot, SnapshotReader

# PostgreSQL 18 and later can cast bytea to integers.
_BYTEA_TO_INTEGER_VERSION: Final = 18_00_00


async def select_vsyncs(session: Session, named: Queries, ispb: str, key_types: Sequence[int]) -> list[Vsync]:
    """Returns the kept VSyncs of these key types, in the same order."""
    parameters = {"ispb": ispb, "key_types": list(key_types)}
    return [Vsync(*row) for row in await session.all(named["vsyncs"], parameters)]


class VsyncRepository:
    def __init__(self, database: Database, mutations: Mutations, snapshots: SnapshotReader) -> None:
        self._database = database
        self._mutations = mutations
        self._snapshots = snapshots
        self._queries = queries("vsyncd.domains.reconciliation", database.schema)

    async def vsync(self, group: Group, *, scope: Scope) -> Vsync:
        """Returns the kept VSync of a group. Raises IspbDenied."""
        scope.check(group.ispb)
        [vsync] = await self._database.read(
            lambda session: select_vsyncs(session, self._queries, group.ispb, [group.key_type]),
            ReadMode.PRIMARY_PREFERRED,
        )
        return vsync

    async def vsyncs(self, ispb: str, *, scope: Scope) -> list[Vsync]:
        """Returns the kept VSync of each key type, from one snapshot. Raises IspbDenied."""
        scope.check(ispb)
        return await self._database.read(
            lambda session: select_vsyncs(session, self._queries, ispb, KEY_TYPES), ReadMode.REPLICA_PREFERRED
        )

    async def recompute(self, group: Group, *, scope: Scope) -> tuple[Vsync, Vsync, datetime]:
        """Computes the VSync of a group by a full scan.

        Returns it, the kept VSync and the time of the snapshot of both. Raises IspbDenied, ResourceExhausted
        (OVERLOADED).
        """
        scope.check(group.ispb)

        async def work(snapshot: Snapshot) -> tuple[Vsync, Vsync, datetime]:
            [kept] = await select_vsyncs(snapshot, self._queries, group.ispb, [group.key_type])
            casts_bytea = snapshot.connection.info.server_version >= _BYTEA_TO_INTEGER_VERSION
            query = self._queries["recompute" if casts_bytea else "recompute_by_bits"]
            row = await snapshot.single(query, group._asdict())
            return Vsync(*group, *row), kept, snapshot.time

        async with self._snapshots.slot():
            return await self._snapshots.read("recompute", work)

    async def record(self, mutation: Mutation, new: NewVsyncVerification, *, scope: Scope) -> VsyncVerification:
        """Records a verification together with the VSync that is kept at that moment. Raises IspbDenied."""
        scope.check(new.ispb)

        async def work(session: Session) -> Outcome[VsyncVerification]:
            [ours] = await select_vsyncs(session, self._queries, new.ispb, [new.key_type])
            parameters = {
                **new._asdict(),
                "id": mutation.audit_id,
                "created_at": time_of(mutation.audit_id),
                "directory_verification_id": new.directory_verification_id or None,
                "our_vsync": ours.vsync,
                "our_count": ours.size,
                "actor": mutation.call.principal,
            }
            row = await session.single(self._queries["record_verification"], parameters)
            verification = VsyncVerification(*row)
            return Outcome(verification, verification.id.bytes, _audit_payload(verification), ispb=new.ispb)

        async def replay(session: Session, answer: bytes) -> VsyncVerification:
            row = await session.single(self._queries["get_verification"], {"id": UUID(bytes=answer)})
            return VsyncVerification(*row)

        return await self._mutations.execute(mutation, work, replay)

    async def verifications(
        self, selected: VerificationFilter, *, limit: int, scope: Scope, below: UUID | None = None
    ) -> list[VsyncVerification]:
        """Returns the newest `limit` verifications that match, newest first, with ids less than `below`.

        Raises IspbDenied.
        """
        scope.check(selected.ispb)
        first, end = id_range(selected.created_after, selected.created_before)
        parameters = {
            **selected._asdict(),
            "from": first,
            "below": end if below is None else min(end, below),
            "limit": limit,
        }
        query = self._queries["list_verifications"]
        rows = await self._database.read(lambda session: session.all(query, parameters), ReadMode.REPLICA_PREFERRED)
        return [VsyncVerification(*row) for row in rows]

    async def measure(self) -> None:
        """Updates the metrics of the last verifications."""
        query = self._queries["measure"]
        rows = await self._database.read(lambda session: session.all(query), ReadMode.REPLICA_PREFERRED)
        counts, nok_since = {row[0]: row[1] for row in rows}, {row[0]: row[2] for row in rows}
        sync_metrics.VERDICTS.replace({"ok": counts.get(OK, 0), "nok": counts.get(NOK, 0)})
        sync_metrics.NOK_SINCE.replace_time(nok_since.get(NOK))


def _audit_payload(verification: VsyncVerification) -> dict[str, object]:
    """Returns the payload of the audit entry. A VSync of a set is not personal data."""
    return {
        "ispb": verification.ispb,
        "key_type": verification.key_type,
        "directory_result": verification.directory_result,
        "submitted_vsync": verification.submitted_vsync.hex(),
        "our_vsync": verification.our_vsync.hex(),
        "our_count": verification.our_count,
        "last_ok_at": None if verification.last_ok_at is None else verification.last_ok_at.astimezone(UTC).isoformat(),
    }
