"""The audit trail in PostgreSQL."""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from vsyncd.core.context import RequestContext
from vsyncd.core.errors import NotFound
from vsyncd.core.ids import id_range, ids_in, new_ids, time_of
from vsyncd.core.scope import Scope
from vsyncd.domains.audit.records import Entry, EntryFilter, EntryPage, NewEntry
from vsyncd.postgres.consistency import ReadMode
from vsyncd.postgres.database import Database
from vsyncd.postgres.mutations import Mutation, Mutations, Outcome
from vsyncd.postgres.queries import Query, Session, queries

# A list with the filter ispb reads at most this many entries for a page.
MAX_SCAN: Final = 10_000


class AuditRepository:
    """Appends and finds entries.

    `with_cid_events`: the set vsync is migrated, so a list by CID includes imports and batches.
    """

    def __init__(self, database: Database, mutations: Mutations, *, with_cid_events: bool = True) -> None:
        self._database = database
        self._mutations = mutations
        self._queries = queries("vsyncd.domains.audit", database.schema)
        self._with_cid_events = with_cid_events

    async def append(self, mutation: Mutation, entries: Sequence[NewEntry], *, scope: Scope) -> list[Entry]:
        """Returns the appended entries in their order; a repeated request returns those of its first execution.

        Appending writes no further entry about itself. Raises IspbDenied with the index of the first entry outside the
        scope.
        """
        scope.check_each(entry.ispb for entry in entries)
        columns = _columns(new_ids(len(entries)), entries, mutation.call)

        async def work(session: Session) -> Outcome[list[Entry]]:
            rows = await session.all(self._queries["append"], columns)
            # The ids are in the order of the request.
            appended = sorted((Entry(*row) for row in rows), key=lambda entry: entry.id)
            return Outcome(appended, b"".join(entry.id.bytes for entry in appended), changed=False)

        async def replay(session: Session, answer: bytes) -> list[Entry]:
            ids = ids_in(answer)
            parameters = {"ids": ids, "first": min(ids), "last": max(ids)}
            return [Entry(*row) for row in await session.all(self._queries["get_all"], parameters)]

        return await self._mutations.execute(mutation, work, replay)

    async def get(self, identifier: UUID, *, scope: Scope) -> Entry:
        """Returns one entry.

        Raises NotFound (AUDIT_LOG_NOT_FOUND), also if it is outside the scope or its month is past retention.
        """
        query = self._queries["get"]
        row = await self._database.read(
            lambda session: session.one(query, {"id": identifier}), ReadMode.PRIMARY_PREFERRED
        )
        entry = Entry(*row) if row is not None else None
        if entry is None or entry.ispb not in scope:
            raise NotFound("AUDIT_LOG_NOT_FOUND", "There is no such audit entry.")
        return entry

    async def page(self, wanted: EntryFilter, *, size: int, scope: Scope, below: UUID | None = None) -> EntryPage:
        """Returns the newest `size` entries that match and have an id lower than `below`. Raises IspbDenied."""
        first, end = id_range(wanted.created_after, wanted.created_before)
        ispb, ispbs = scope.narrow(wanted.ispb)
        is_scan = bool(ispb or ispbs is not None) and wanted.by != "ispb"
        parameters = {
            "value": wanted.value,
            "ispb": ispb,
            "ispbs": ispbs,
            "from": first,
            "below": end if below is None else min(end, below),
            "limit": MAX_SCAN if is_scan else size + 1,
            "size": size + 1,
        }
        query = self._list_query(wanted.by)
        if is_scan:
            query = filtered_query(self._queries["list_filtered"], query, several=ispbs is not None)
        rows = await self._database.read(lambda session: session.all(query, parameters), ReadMode.REPLICA_PREFERRED)
        scan_end = None
        if is_scan:
            scan_end = rows[0][0] if rows[0][1] == MAX_SCAN else None
            rows = [row[2:] for row in rows if row[2] is not None]
        entries = [Entry(*row) for row in rows[:size]]
        return EntryPage(entries, entries[-1].id if len(rows) > size else scan_end)

    def _list_query(self, by: str) -> Query:
        has_own_query = by in {"ispb", "actor"} or (by == "cid" and self._with_cid_events)
        return list_query(self._queries[f"list_by_{by}" if has_own_query else "list_by"], by)


def list_query(template: Query, by: str) -> Query:
    return Query(f"audit.list_by_{by}", template.sql.replace(b"/*COLUMN*/", by.encode()))


def filtered_query(template: Query, source: Query, *, several: bool = False) -> Query:
    """Returns the query that filters another list by ISPB, or by `several`."""
    condition = b"ispb = ANY (%(ispbs)s::text[])" if several else b"ispb = %(ispb)s"
    name = f"{source.name}_and_ispbs" if several else f"{source.name}_and_ispb"
    return Query(name, template.sql.replace(b"/*SOURCE*/", source.sql).replace(b"/*ISPB*/", condition))


def _columns(ids: Sequence[UUID], entries: Sequence[NewEntry], call: RequestContext) -> dict[str, object]:
    """Returns the entries as columns. The call provides what an entry leaves empty."""
    return {
        "ids": ids,
        "created_ats": [time_of(identifier) for identifier in ids],
        "correlation_ids": [entry.correlation_id or call.correlation_id for entry in entries],
        "recorded_bys": [call.principal] * len(entries),
        "on_behalf_ofs": [entry.on_behalf_of for entry in entries],
        "actions": [entry.action for entry in entries],
        "resources": [entry.resource for entry in entries],
        "ispbs": [entry.ispb for entry in entries],
        "key_values": [entry.key_value for entry in entries],
        "cids": [entry.cid for entry in entries],
        "payloads": [entry.payload for entry in entries],
    }
