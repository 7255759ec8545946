"""Reads and changes CIDs in PostgreSQL."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from vsync.cid_codec import unpack

from vsyncd.core.errors import InvalidFields, NotFound, Violation
from vsyncd.core.ids import ids_in, new_ids
from vsyncd.core.scope import Scope
from vsyncd.domains.cids.access_paths import (
    choose_access_path,
    filter_parameters,
    ispb_condition,
    with_access_path,
)
from vsyncd.domains.cids.records import (
    CID_COLUMNS,
    FAILED,
    PENDING,
    SYNCED,
    CidChanges,
    CidFilter,
    CidRecord,
    NewCid,
    ReadResult,
    Selector,
    single_ispb,
)
from vsyncd.domains.cids.rows import already_exists, find_conflict, rows_json
from vsyncd.observability import sync_metrics
from vsyncd.postgres.consistency import ReadMode, ReadPreference
from vsyncd.postgres.database import Database
from vsyncd.postgres.error_mapping import Contention
from vsyncd.postgres.mutations import Mutation, Mutations, Outcome, replay_by
from vsyncd.postgres.queries import Query, Session, queries
from vsyncd.postgres.single_statement import Change, SingleStatement
from vsyncd.postgres.tables import check_revision

# The rows that one page reads at most, if no index matches its filter completely.
MAX_SCANNED_ROWS: Final = 10_000

# The columns of NewCid.
_NEW_CID_COLUMNS: Final = (
    "cid bytea, key_type smallint, key_value text, ispb text, branch text, account_number text, account_type smallint,"
    " tax_id text, dict_request_id uuid"
)


class CidRepository:
    """The table of CIDs."""

    def __init__(self, database: Database, mutations: Mutations) -> None:
        self._database = database
        self._mutations = mutations
        self._queries = queries("vsyncd.domains.cids", database.schema, columns=CID_COLUMNS)
        self._single_create = SingleStatement(
            database, self._queries["create"], columns=_NEW_CID_COLUMNS, key="audit_id", coalesce="create_cid"
        )

    async def create(self, mutation: Mutation, new: NewCid, *, scope: Scope) -> CidRecord:
        """Creates a record with the audit entry's id. Concurrent calls share a statement.

        Raises AlreadyExists, IspbDenied.
        """
        scope.check(new.ispb)

        async def otherwise() -> CidRecord:
            [record] = await self._create(mutation, [new], [mutation.audit_id], payload=None, scope=scope)
            return record

        change = Change(mutation, new._asdict(), mutation.audit_id.bytes)
        return await self._single_create.execute(change, CidRecord.created(mutation.audit_id, new), otherwise)

    async def create_batch(self, mutation: Mutation, new_cids: Sequence[NewCid], *, scope: Scope) -> list[CidRecord]:
        """Creates all records or none.

        Raises AlreadyExists with the index of the first that exists already, or IspbDenied with that of the first
        outside the scope.
        """
        scope.check_each(new.ispb for new in new_cids)
        payload = {"records": len(new_cids)}
        return await self._create(mutation, new_cids, new_ids(len(new_cids)), payload=payload, scope=scope)

    async def _create(
        self,
        mutation: Mutation,
        new_cids: Sequence[NewCid],
        identifiers: Sequence[UUID],
        *,
        payload: Mapping[str, Any] | None,
        scope: Scope,
    ) -> list[CidRecord]:
        async def work(session: Session) -> Outcome[list[CidRecord]]:
            await self._insert(session, identifiers, new_cids, scope)
            answer = b"".join(identifier.bytes for identifier in identifiers)
            return Outcome(decode(answer), answer, payload)

        def decode(answer: bytes) -> list[CidRecord]:
            return [
                CidRecord.created(identifier, new) for identifier, new in zip(ids_in(answer), new_cids, strict=True)
            ]

        return await self._mutations.execute(mutation, work, replay_by(decode))

    async def _insert(
        self, session: Session, identifiers: Sequence[UUID], new_cids: Sequence[NewCid], scope: Scope
    ) -> None:
        rows = rows_json(identifiers, new_cids)
        inserted = await session.all(self._queries["create_many"], {"rows": rows, "sync_status": PENDING})
        if len(inserted) == len(new_cids):
            return
        inserted_ids = {row[0] for row in inserted}
        conflict = await find_conflict(
            session, self._queries["find_conflicts"], rows, new_cids, inserted=inserted_ids, scope=scope
        )
        if conflict is None:
            raise Contention  # the existing record was deleted in the meantime
        index, error = conflict
        if len(new_cids) > 1:
            error.metadata["index"] = str(index)
        raise error

    async def get_by_ids(
        self, identifiers: Sequence[UUID], preference: ReadPreference, *, scope: Scope
    ) -> list[ReadResult]:
        """Reads the records with these ids, in the same order."""
        records, server = await self._read("get_by_ids", {"id": list(identifiers)}, preference, scope)
        found = {record.id: record for record in records}
        return [ReadResult(found.get(identifier), server) for identifier in identifiers]

    async def get_by_cids(self, cids: Sequence[bytes], preference: ReadPreference, *, scope: Scope) -> list[ReadResult]:
        """Reads the records with these cids, in the same order."""
        records, server = await self._read("get_by_cids", {"cid": list(cids)}, preference, scope)
        found = {record.cid: record for record in records}
        return [ReadResult(found.get(cid), server) for cid in cids]

    async def get_by_keys(
        self, keys: Sequence[tuple[str, str]], preference: ReadPreference, *, scope: Scope
    ) -> list[ReadResult]:
        """Reads the records with these (key_value, ispb), in the same order."""
        parameters = {"key_value": [key[0] for key in keys], "ispb": [key[1] for key in keys]}
        records, server = await self._read("get_by_keys", parameters, preference, scope)
        found = {(record.key_value, record.ispb): record for record in records}
        return [ReadResult(found.get(key), server) for key in keys]

    async def _read(
        self, name: str, parameters: Mapping[str, Any], preference: ReadPreference, scope: Scope
    ) -> tuple[list[CidRecord], int]:
        """Returns the records that exist in the scope, and the number of the server and database."""
        query = self._queries[name]
        rows = await self._database.read(lambda session: session.all(query, parameters), preference, fail_fast=True)
        records = [CidRecord._make(row[1:]) for row in rows if row[1] is not None]
        return [record for record in records if record.ispb in scope], rows[0][0]

    async def page(
        self, cid_filter: CidFilter, *, after: UUID, size: int, scope: Scope
    ) -> tuple[list[CidRecord], UUID | None]:
        """Returns up to `size` records after an id, in the order of ids, and the id that the next page starts after.

        Raises IspbDenied.
        """
        selected = cid_filter.within(scope)
        path, exact = choose_access_path(selected)
        scan = size + 1 if exact else MAX_SCANNED_ROWS
        if path == "ispbs":  # it scans as many rows of each participant
            scan = max(size + 1, scan // max(1, len(selected.ispbs or ())))
        parameters = filter_parameters(selected, after) | {"scan": scan, "size": size}
        query = self._list_query(selected)
        rows = await self._database.read(lambda session: session.all(query, parameters), ReadMode.REPLICA_PREFERRED)
        records = [CidRecord._make(row[:16]) for row in rows if row[0] is not None]
        scan_end, scanned = rows[0][16], rows[0][17]
        if len(records) == size and (not exact or scanned > size):
            return records, records[-1].id
        return records, (scan_end if not exact and scanned == scan else None)

    def _list_query(self, cid_filter: CidFilter) -> Query:
        path, _ = choose_access_path(cid_filter)
        name = f"along_{path}" if path in {"ispb", "ispbs"} else "along_path"
        source = with_access_path(self._queries[name], path)
        query = with_access_path(self._queries["list"], path, condition_on_ispb=ispb_condition(cid_filter))
        return Query(query.name, query.sql.replace(b"/*SOURCE*/", source.sql))

    async def count(self, ispb: str | None, *, scope: Scope) -> list[tuple[int, int, int]]:
        """Returns (key type, status, count), sorted, without zero counts. Raises IspbDenied."""
        ispb, ispbs = scope.narrow(ispb)
        name = "count_of_ispb" if ispb else "count" if ispbs is None else "count_of_ispbs"
        query, parameters = self._queries[name], {"ispb": ispb, "ispbs": ispbs}
        rows = await self._database.read(lambda session: session.all(query, parameters), ReadMode.REPLICA_PREFERRED)
        return [(row[0], row[1], row[2]) for row in rows]

    async def measure(self) -> None:
        """Updates the metric of the records."""
        counts = dict.fromkeys((PENDING, SYNCED, FAILED), 0)
        for _, status, count in await self.count(None, scope=Scope(None)):
            counts[status] += count
        sync_metrics.RECORDS.replace(dict(zip(("pending", "synced", "failed"), counts.values(), strict=True)))

    async def fold_totals(self) -> int:
        """Folds the deltas of counts and VSyncs into sums. Returns the number of folded rows."""
        row = await self._database.transaction(lambda session: session.single(self._queries["fold_totals"]))
        return int(row[0])

    async def update(
        self, mutation: Mutation, selector: Selector, changes: CidChanges, *, revision: int | None, scope: Scope
    ) -> CidRecord:
        """Changes the account and the cid of a record, and returns the record.

        Raises NotFound, IspbDenied, Aborted (REVISION_MISMATCH), AlreadyExists (CID_EXISTS).
        """

        async def work(session: Session) -> Outcome[CidRecord]:
            before = await self._lock(session, selector, revision, scope)
            if before.cid == changes.cid:
                raise InvalidFields([Violation("update.cid", "must differ from the record's current cid")])
            existing = await session.one(self._queries["cid_holder"], {"cid": changes.cid, "id": before.id})
            if existing is not None:
                raise already_exists("cid", existing[0], existing[1], is_visible=existing[2] in scope)
            after = _changed(before, changes)
            await session.run(self._queries["update"], {**after._asdict(), "now": after.updated_at})
            payload = {"fields": sorted({"cid", *changes.fields}), "revision": after.revision}
            return Outcome(after, after.dump(), payload, ispb=after.ispb, key_value=after.key_value, cid=after.cid)

        def decode(answer: bytes) -> CidRecord:
            record = CidRecord.load(answer)
            if record.ispb not in scope:  # it was in the scope when the request took effect
                raise not_found()
            return record

        _check_key(selector, scope)
        return await self._mutations.execute(mutation, work, replay_by(decode))

    async def update_sync_status(
        self, mutation: Mutation, cids: Sequence[bytes], *, sync_status: int, error: str | None, scope: Scope
    ) -> tuple[int, list[bytes]]:
        """Sets the status of records. Returns their number and the cids that do not exist in the scope."""
        parameters = {"cid": list(cids), "sync_status": sync_status, "error": error, "now": now()}
        payload = {"sync_status": sync_status}
        missing = await self._change_many(mutation, "update_sync_status", cids, parameters, payload, scope=scope)
        return len(cids) - len(missing), missing

    async def delete(self, mutation: Mutation, selector: Selector, *, revision: int | None, scope: Scope) -> None:
        """Deletes a record. Raises NotFound, IspbDenied, Aborted (REVISION_MISMATCH)."""

        async def work(session: Session) -> Outcome[None]:
            record = await self._lock(session, selector, revision, scope)
            await session.run(self._queries["delete"], {"id": record.id})
            return Outcome(
                None,
                b"",
                {"revision": record.revision},
                ispb=record.ispb,
                key_value=record.key_value,
                cid=record.cid,
            )

        _check_key(selector, scope)
        await self._mutations.execute(mutation, work, replay_by(lambda _answer: None))

    async def delete_batch(self, mutation: Mutation, cids: Sequence[bytes], *, scope: Scope) -> list[bytes]:
        """Deletes the records with these cids. Returns the cids that do not exist in the scope."""
        return await self._change_many(mutation, "delete_many", cids, {"cid": list(cids)}, {}, scope=scope)

    async def _change_many(
        self,
        mutation: Mutation,
        name: str,
        cids: Sequence[bytes],
        parameters: Mapping[str, Any],
        payload: Mapping[str, Any],
        *,
        scope: Scope,
    ) -> list[bytes]:
        """Executes a query that returns the cid and the ISPB of each record it changed. Returns the other cids."""
        query = in_scope(self._queries[name], scope)
        if scope.ispbs is not None:
            parameters = {**parameters, "ispbs": list(scope.ispbs)}

        async def work(session: Session) -> Outcome[list[bytes]]:
            changed: dict[bytes, str] = dict(await session.all(query, parameters))
            missing = [cid for cid in cids if cid not in changed]
            counts = {"records": len(changed), "missing": len(missing)}
            only = cids[0] if len(cids) == 1 else None
            ispb = single_ispb(changed.values())
            return Outcome(
                missing, b"".join(missing), {**payload, **counts}, ispb=ispb, cid=only, changed=bool(changed)
            )

        return await self._mutations.execute(mutation, work, replay_by(unpack))

    async def _lock(self, session: Session, selector: Selector, revision: int | None, scope: Scope) -> CidRecord:
        if selector.id is not None:
            row = await session.one(self._queries["lock_by_id"], {"id": selector.id})
        elif selector.cid is not None:
            row = await session.one(self._queries["lock_by_cid"], {"cid": selector.cid})
        else:
            key_value, ispb = selector.key or ("", "")
            row = await session.one(self._queries["lock_by_key"], {"key_value": key_value, "ispb": ispb})
        record = CidRecord._make(row) if row is not None else None
        if record is None or record.ispb not in scope:
            raise not_found()
        check_revision(revision, record.revision)
        return record


def in_scope(query: Query, scope: Scope) -> Query:
    """Returns the query with its placeholder SCOPE replaced."""
    if not scope.is_restricted:
        return query
    condition = b" AND ispb = ANY (%(ispbs)s::text[])"
    return Query(f"{query.name}_in_scope", query.sql.replace(b"/*SCOPE*/", condition))


def _check_key(selector: Selector, scope: Scope) -> None:
    """Raises IspbDenied if the selector names a participant outside the scope."""
    if selector.key is not None:
        scope.check(selector.key[1])


def now() -> datetime:
    """Returns the current time, to the millisecond like the time of an id."""
    time = datetime.now(UTC)
    return time.replace(microsecond=time.microsecond // 1_000 * 1_000)


def _changed(record: CidRecord, changes: CidChanges) -> CidRecord:
    values: dict[str, Any] = {name: getattr(changes, name) for name in changes.fields}
    if "dict_request_id" in changes.fields:
        values["dict_request_id"] = UUID(changes.dict_request_id) if changes.dict_request_id else None
    return record._replace(
        **values, cid=changes.cid, sync_status=PENDING, last_error=None, updated_at=now(), revision=record.revision + 1
    )


def not_found() -> NotFound:
    return NotFound("CID_NOT_FOUND", "The record does not exist.")
