"""The audit trail in PostgreSQL."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from vsyncd.core.context import RequestContext
from vsyncd.core.errors import NotFound
from vsyncd.core.ids import floor_at, new_ids, time_of
from vsyncd.domains.audit.records import Entry, EntryFilter, NewEntry
from vsyncd.postgres.consistency import ReadMode
from vsyncd.postgres.database import Database
from vsyncd.postgres.mutations import Mutation, Mutations, Outcome
from vsyncd.postgres.queries import queries
from vsyncd.postgres.session import Session

# Between all ids of version 7.
_LEAST, _GREATEST = UUID(int=0), UUID(int=(1 << 128) - 1)
_ALMOST_A_MILLISECOND = timedelta(microseconds=999)
_LAST = datetime.max.replace(tzinfo=UTC) - _ALMOST_A_MILLISECOND
_ID_BYTES = 16


class AuditLogNotFound(NotFound):
    """No entry has this id, or its month is past retention."""

    def __init__(self) -> None:
        super().__init__("AUDIT_LOG_NOT_FOUND", "There is no such audit entry.")


class AuditRepository:
    """Appends and finds entries."""

    def __init__(self, database: Database, mutations: Mutations) -> None:
        self._database = database
        self._mutations = mutations
        self._queries = queries("vsyncd.domains.audit", database.schema)

    async def append(self, mutation: Mutation, entries: Sequence[NewEntry]) -> list[Entry]:
        """The entries as they were appended, in their order; of an earlier execution of the same request, as then.

        The trail is what changes here: no entry is written about the appending.
        """
        columns = _columns(new_ids(len(entries)), entries, mutation.call)

        async def work(session: Session) -> Outcome[list[Entry]]:
            rows = await session.all(self._queries["append"], columns)
            # The order of the ids is the request's.
            appended = sorted((Entry(*row) for row in rows), key=lambda entry: entry.id)
            return Outcome(appended, b"".join(entry.id.bytes for entry in appended), changed=False)

        async def replay(session: Session, answer: bytes) -> list[Entry]:
            ids = [UUID(bytes=answer[at : at + _ID_BYTES]) for at in range(0, len(answer), _ID_BYTES)]
            parameters = {"ids": ids, "first": min(ids), "last": max(ids)}
            return [Entry(*row) for row in await session.all(self._queries["get_all"], parameters)]

        return await self._mutations.execute(mutation, work, replay)

    async def get(self, identifier: UUID) -> Entry:
        """One entry. Raises AuditLogNotFound."""

        async def work(session: Session) -> Entry | None:
            row = await session.one(self._queries["get"], {"id": identifier})
            return None if row is None else Entry(*row)

        entry = await self._database.read(work, ReadMode.PRIMARY_PREFERRED)
        if entry is None:
            raise AuditLogNotFound
        return entry

    async def list(self, wanted: EntryFilter, *, limit: int, below: UUID | None = None) -> list[Entry]:
        """The newest `limit` entries that match, newest first; only those with an id less than `below`."""
        upper = _GREATEST if wanted.created_before is None else _first_id_from(wanted.created_before)
        parameters = {
            "value": wanted.value,
            "from": _LEAST if wanted.created_after is None else _first_id_from(wanted.created_after),
            "below": upper if below is None else min(upper, below),
            "limit": limit,
        }

        async def work(session: Session) -> list[Entry]:
            return [Entry(*row) for row in await session.all(self._queries[f"list_by_{wanted.by}"], parameters)]

        return await self._database.read(work, ReadMode.REPLICA_PREFERRED)


def _columns(ids: Sequence[UUID], entries: Sequence[NewEntry], call: RequestContext) -> dict[str, object]:
    """What is appended, column by column: what an entry leaves open comes from the call."""
    return {
        "ids": ids,
        "created_ats": [time_of(identifier) for identifier in ids],
        "correlation_ids": [entry.correlation_id or call.correlation_id for entry in entries],
        "actors": [entry.actor or call.actor for entry in entries],
        "actions": [entry.action for entry in entries],
        "key_values": [entry.key_value for entry in entries],
        "cids": [entry.cid for entry in entries],
        "payloads": [entry.payload for entry in entries],
    }


def _first_id_from(at: datetime) -> UUID:
    """The least id of an entry created at `at` or later: entries are created on whole milliseconds."""
    return floor_at(min(at, _LAST) + _ALMOST_A_MILLISECOND)
