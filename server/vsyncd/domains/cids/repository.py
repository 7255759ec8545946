"""The SQL of CIDs: records in and out. Every mutation runs in the frame of vsyncd.postgres.mutations."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from vsyncd.core.errors import Aborted, InvalidFields, NotFound, Violation
from vsyncd.core.ids import new_ids
from vsyncd.domains.cids.access_paths import at_path, choose_access_path, selection_parameters
from vsyncd.domains.cids.conflicts import already_exists, first_clash, rows_of
from vsyncd.domains.cids.records import (
    CidChanges,
    CidFilter,
    CidRecord,
    NewCid,
    Page,
    Reading,
    Selector,
    single_ispb,
)
from vsyncd.postgres.consistency import ReadPreference, Reads
from vsyncd.postgres.database import Database
from vsyncd.postgres.error_mapping import Contention
from vsyncd.postgres.mutations import Mutation, Mutations, Outcome
from vsyncd.postgres.queries import Query, queries
from vsyncd.postgres.session import Session

# A page whose filter no index decides wholly looks at no more rows than this.
MAX_SCAN: Final = 10_000
LEAST_ID: Final = UUID(int=0)


class CidRepository:
    """CIDs in PostgreSQL."""

    def __init__(self, database: Database, mutations: Mutations) -> None:
        self._database = database
        self._mutations = mutations
        self._queries = queries("vsyncd.domains.cids", database.schema)

    # -- creating ----------------------------------------------------------------------------------------------------

    async def create(self, mutation: Mutation, new: NewCid) -> CidRecord:
        """One record, under the audit entry's id. Raises AlreadyExists."""

        async def work(session: Session) -> Outcome[CidRecord]:
            identifier = mutation.audit_id
            await self._insert(session, [identifier], [new])
            return Outcome(CidRecord.created(identifier, new), identifier.bytes)

        async def replay(_session: Session, answer: bytes) -> CidRecord:
            return CidRecord.created(UUID(bytes=answer), new)

        return await self._mutations.execute(mutation, work, replay)

    async def create_batch(self, mutation: Mutation, news: Sequence[NewCid]) -> list[CidRecord]:
        """All records, or none. Raises AlreadyExists for the first that is there, with its index."""

        def created(identifiers: Sequence[UUID]) -> list[CidRecord]:
            return [CidRecord.created(identifier, new) for identifier, new in zip(identifiers, news, strict=True)]

        async def work(session: Session) -> Outcome[list[CidRecord]]:
            identifiers = new_ids(len(news))
            await self._insert(session, identifiers, news)
            answer = b"".join(identifier.bytes for identifier in identifiers)
            return Outcome(created(identifiers), answer, {"records": len(news)})

        async def replay(_session: Session, answer: bytes) -> list[CidRecord]:
            return created([UUID(bytes=answer[at : at + 16]) for at in range(0, len(answer), 16)])

        return await self._mutations.execute(mutation, work, replay)

    async def _insert(self, session: Session, identifiers: Sequence[UUID], news: Sequence[NewCid]) -> None:
        rows = rows_of(identifiers, news)
        inserted = await session.all(self._queries["create_many"], {"rows": rows, "sync_status": 1})
        if len(inserted) == len(news):
            return
        ours = {row[0] for row in inserted}
        clash = await first_clash(session, self._queries["find_clashes"], rows, news, inserted=ours)
        if clash is None:
            raise Contention  # what was there is gone again
        index, error = clash
        if len(news) > 1:
            error.metadata["index"] = str(index)
        raise error

    # -- reading -----------------------------------------------------------------------------------------------------

    async def get_by_ids(self, identifiers: Sequence[UUID], wish: ReadPreference) -> list[Reading]:
        """The records of these ids, in their order."""
        records, server = await self._read("get_by_ids", {"id": list(identifiers)}, wish)
        found = {record.id: record for record in records}
        return [Reading(found.get(identifier), server) for identifier in identifiers]

    async def get_by_cids(self, cids: Sequence[bytes], wish: ReadPreference) -> list[Reading]:
        """The records of these CIDs, in their order."""
        records, server = await self._read("get_by_cids", {"cid": list(cids)}, wish)
        found = {record.cid: record for record in records}
        return [Reading(found.get(cid), server) for cid in cids]

    async def get_by_keys(self, keys: Sequence[tuple[str, str]], wish: ReadPreference) -> list[Reading]:
        """The records of these (key_value, ispb), in their order."""
        parameters = {"key_value": [key[0] for key in keys], "ispb": [key[1] for key in keys]}
        records, server = await self._read("get_by_keys", parameters, wish)
        found = {(record.key_value, record.ispb): record for record in records}
        return [Reading(found.get(key), server) for key in keys]

    async def _read(
        self, name: str, parameters: Mapping[str, Any], wish: ReadPreference
    ) -> tuple[list[CidRecord], int]:
        """The records that there are, and the number of the server and database that has them."""
        query = self._queries[name]
        rows = await self._database.read_as(wish, lambda session: session.all(query, parameters), bounded=True)
        return [CidRecord._make(row[1:]) for row in rows if row[1] is not None], rows[0][0]

    async def page(self, selection: CidFilter, *, after: UUID, size: int) -> Page:
        """Up to `size` records behind the id `after`, in the order of ids."""
        path, exact = choose_access_path(selection)
        parameters = selection_parameters(selection, after) | {"scan": size + 1 if exact else MAX_SCAN, "size": size}
        query = self._list_query(path)
        rows = await self._database.read(lambda session: session.all(query, parameters), Reads.MANY)
        records = [CidRecord._make(row[:16]) for row in rows if row[0] is not None]
        scan_end, scanned = rows[0][16], rows[0][17]
        if len(records) == size and (not exact or scanned > size):
            return Page(records, records[-1].id)
        return Page(records, scan_end if not exact and scanned == MAX_SCAN else None)

    def _list_query(self, path: str) -> Query:
        source = self._queries["along_ispb"] if path == "ispb" else at_path(self._queries["along_path"], path)
        query = self._queries["list"]
        return Query(f"{query.name}_by_{path}", query.sql.replace(b"/*SOURCE*/", source.sql))

    async def count(self, ispb: str | None) -> list[tuple[int, int, int]]:
        """(key type, status, count), in that order, without zeros."""
        query = self._queries["count" if ispb is None else "count_of_ispb"]
        rows = await self._database.read(lambda session: session.all(query, {"ispb": ispb}), Reads.MANY)
        return [(row[0], row[1], row[2]) for row in rows]

    async def fold_totals(self) -> int:
        """Sum up what CountCids adds; how many rows that were."""
        row = await self._database.transaction(lambda session: session.one(self._queries["fold_totals"]))
        return int(row[0]) if row else 0

    # -- changing ----------------------------------------------------------------------------------------------------

    async def update(
        self, mutation: Mutation, selector: Selector, changes: CidChanges, *, revision: int | None
    ) -> CidRecord:
        """The record as it is then. Raises NotFound, Aborted (other revision), AlreadyExists (the new cid is taken)."""

        async def work(session: Session) -> Outcome[CidRecord]:
            before = await self._lock(session, selector, revision)
            if before.cid == changes.cid:
                raise InvalidFields([Violation("update.cid", "must be another cid than the record's present one")])
            holder = await session.one(self._queries["cid_holder"], {"cid": changes.cid, "id": before.id})
            if holder is not None:
                raise already_exists("cid", holder[0], holder[1])
            after = _changed(before, changes)
            await session.run(self._queries["update"], {**after._asdict(), "now": after.updated_at})
            payload = {"fields": sorted({"cid", *changes.fields}), "revision": after.revision}
            return Outcome(after, after.dump(), payload, ispb=after.ispb, key_value=after.key_value, cid=after.cid)

        async def replay(_session: Session, answer: bytes) -> CidRecord:
            return CidRecord.load(answer)

        return await self._mutations.execute(mutation, work, replay)

    async def update_sync_status(
        self, mutation: Mutation, cids: Sequence[bytes], *, sync_status: int, error: str | None
    ) -> tuple[int, list[bytes]]:
        """How many records have the status now, and the CIDs that are not there."""
        parameters = {"cid": list(cids), "sync_status": sync_status, "error": error, "now": now()}
        payload = {"sync_status": sync_status}
        missing = await self._change_many(mutation, "update_sync_status", cids, parameters, payload)
        return len(cids) - len(missing), missing

    async def delete(self, mutation: Mutation, selector: Selector, *, revision: int | None) -> None:
        """Raises NotFound, Aborted (another revision)."""

        async def work(session: Session) -> Outcome[None]:
            record = await self._lock(session, selector, revision)
            await session.run(self._queries["delete"], {"id": record.id})
            return Outcome(
                None,
                b"",
                {"revision": record.revision},
                ispb=record.ispb,
                key_value=record.key_value,
                cid=record.cid,
            )

        async def replay(_session: Session, _answer: bytes) -> None:
            return None

        await self._mutations.execute(mutation, work, replay)

    async def delete_batch(self, mutation: Mutation, cids: Sequence[bytes]) -> list[bytes]:
        """The CIDs that are not there; the others are deleted."""
        return await self._change_many(mutation, "delete_many", cids, {"cid": list(cids)}, {})

    async def _change_many(
        self,
        mutation: Mutation,
        name: str,
        cids: Sequence[bytes],
        parameters: Mapping[str, Any],
        payload: Mapping[str, Any],
    ) -> list[bytes]:
        """Executes a query that returns the CID and the ISPB of each record it changed. Returns the other CIDs."""

        async def work(session: Session) -> Outcome[list[bytes]]:
            touched: dict[bytes, str] = dict(await session.all(self._queries[name], parameters))
            missing = [cid for cid in cids if cid not in touched]
            counts = {"records": len(touched), "missing": len(missing)}
            only = cids[0] if len(cids) == 1 else None
            ispb = single_ispb(touched.values())
            return Outcome(
                missing, b"".join(missing), {**payload, **counts}, ispb=ispb, cid=only, changed=bool(touched)
            )

        async def replay(_session: Session, answer: bytes) -> list[bytes]:
            return [answer[at : at + 32] for at in range(0, len(answer), 32)]

        return await self._mutations.execute(mutation, work, replay)

    async def _lock(self, session: Session, selector: Selector, revision: int | None) -> CidRecord:
        if selector.id is not None:
            row = await session.one(self._queries["lock_by_id"], {"id": selector.id})
        elif selector.cid is not None:
            row = await session.one(self._queries["lock_by_cid"], {"cid": selector.cid})
        else:
            key_value, ispb = selector.key or ("", "")
            row = await session.one(self._queries["lock_by_key"], {"key_value": key_value, "ispb": ispb})
        if row is None:
            raise not_found()
        record = CidRecord._make(row)
        if revision is not None and record.revision != revision:
            raise Aborted(
                "REVISION_MISMATCH",
                "The record was changed since that revision.",
                metadata={"revision": str(record.revision)},
            )
        return record


def now() -> datetime:
    """The present, to the millisecond, as every time of ours is."""
    at = datetime.now(UTC)
    return at.replace(microsecond=at.microsecond // 1_000 * 1_000)


def _changed(record: CidRecord, changes: CidChanges) -> CidRecord:
    values: dict[str, Any] = {name: getattr(changes, name) for name in changes.fields}
    if "dict_request_id" in changes.fields:
        values["dict_request_id"] = UUID(changes.dict_request_id) if changes.dict_request_id else None
    return record._replace(
        **values, cid=changes.cid, sync_status=1, last_error=None, updated_at=now(), revision=record.revision + 1
    )


def not_found() -> NotFound:
    """No such record."""
    return NotFound("CID_NOT_FOUND", "There is no such record.")
