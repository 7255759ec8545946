"""Imports CIDs in chunks. Each chunk is committed together with its response.

A chunk of new records is inserted by COPY. If a record exists already, the chunk and those after it are inserted by
INSERT ... ON CONFLICT, until a chunk has no conflict: so COPY does not fail for each chunk of a file that was imported
before. The first chunk of a stream also uses INSERT, because nothing is known about it: the error of a failed COPY
contains the key, and PostgreSQL logs it by default.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, NamedTuple
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from vsyncd.core.context import current_context
from vsyncd.core.errors import Aborted, FailedPrecondition, InvalidArgument, InvalidFields, ServiceError, Violation
from vsyncd.core.ids import new_id, new_id_bytes, time_of
from vsyncd.core.scope import IspbDenied, Scope
from vsyncd.domains.cids.binary_copy import copy_data, pack_row
from vsyncd.domains.cids.records import CID_COLUMNS, NewCid, single_ispb
from vsyncd.domains.cids.rows import find_conflict, rows_json
from vsyncd.observability.metrics import IMPORTED_RECORDS, QUERIES
from vsyncd.postgres.database import Database
from vsyncd.postgres.error_mapping import Contention
from vsyncd.postgres.queries import Session, queries

# Reading and encoding yield to the event loop after so many records, about 0.1 ms of work. Otherwise the chunk that is
# being written would wait for this work at each of its five round trips to PostgreSQL.
RECORDS_PER_TURN: Final = 25

FAIL: Final = 1
SKIP: Final = 2
REPLACE: Final = 3


class ImportCounts(NamedTuple):
    inserted: int = 0
    skipped: int = 0
    replaced: int = 0
    rejected: int = 0


class Rejection(NamedTuple):
    """A rejected record: its position in the chunk, from 0, and the reason."""

    position: int
    reason: str
    violations: tuple[Violation, ...] = ()


@dataclass(kw_only=True)
class Chunk:
    """A validated chunk. `indexes` are the positions of `new_cids` in the chunk as it was sent."""

    number: int
    fingerprint: bytes
    new_cids: Sequence[NewCid]
    indexes: Sequence[int]
    rejections: Sequence[Rejection] = ()
    skipped: int = 0

    _copy: bytes | None = field(default=None, init=False, repr=False)

    @cached_property
    def identifiers(self) -> Sequence[bytes]:
        """The ids of the new records, 16 bytes each."""
        return new_id_bytes(len(self.new_cids))

    async def copy_data(self, sync_status: int) -> bytes:
        """Returns the new records as input of COPY. The result is cached."""
        if self._copy is None:
            rows: list[bytes] = []
            for identifier, new in zip(self.identifiers, self.new_cids, strict=True):
                rows.append(pack_row(identifier, new, sync_status=sync_status))
                if not len(rows) % RECORDS_PER_TURN:
                    await asyncio.sleep(0)
            self._copy = copy_data(rows)
        return self._copy

    def rows_json(self, positions: Sequence[int] | None = None) -> str:
        """Returns the new records, or those at these positions of `new_cids`, as JSON."""
        chosen = range(len(self.new_cids)) if positions is None else positions
        return rows_json((UUID(bytes=self.identifiers[at]) for at in chosen), (self.new_cids[at] for at in chosen))


@dataclass(slots=True, kw_only=True)
class Import:
    """The state of an import in this stream.

    `scope`: the participants whose records the caller may import. `use_insert`: the next chunk may have conflicts.
    """

    import_id: UUID
    on_conflict: int
    sync_status: int
    scope: Scope
    last_number: int = 0
    totals: ImportCounts = field(default_factory=ImportCounts)
    use_insert: bool = True


class ChunkResult(NamedTuple):
    """The result of a chunk, and the totals of the import."""

    number: int
    counts: ImportCounts
    rejections: Sequence[Rejection]
    totals: ImportCounts


class _CopyConflict(Exception):  # noqa: N818  it leaves the transaction that COPY has aborted
    """COPY failed because a record exists already."""


class ImportRepository:
    """The tables of imports and their chunks."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = queries("vsyncd.domains.cids", database.schema, columns=CID_COLUMNS)

    async def open(self, import_id: UUID, *, on_conflict: int, sync_status: int, scope: Scope) -> Import:
        """Returns a new import, or the state of an earlier one.

        Raises InvalidFields (IMPORT_REUSED) if the id belongs to another caller or an import with other options.
        """
        options = (current_context().principal, on_conflict, sync_status)
        names = ("actor", "on_conflict", "initial_sync_status")
        parameters = {"import_id": import_id, **dict(zip(names, options, strict=True))}

        async def work(session: Session) -> Import:
            await session.run(self._queries["open_import"], parameters)
            row = await session.one(self._queries["find_import"], {"import_id": import_id})
            if row is None or tuple(row[:3]) != options:
                violation = Violation("start.import_id", "was used before, by another caller or with other options")
                raise InvalidFields([violation], reason="IMPORT_REUSED")
            # The client continues after the last chunk of the response, so that chunk must be durable.
            await self._database.wait_for_standbys(session)
            return Import(
                import_id=import_id,
                on_conflict=on_conflict,
                sync_status=sync_status,
                scope=scope,
                last_number=row[3],
                totals=ImportCounts(*row[4:8]),
            )

        return await self._database.transaction(work, repeatable=True)

    async def write(self, state: Import, chunk: Chunk, encode: Callable[[ChunkResult], bytes]) -> bytes:
        """Commits a chunk and its response, or returns the response that the chunk had before.

        `encode` returns the response. Raises InvalidArgument (CHUNK_OUT_OF_ORDER, CHUNK_REUSED), FailedPrecondition
        (IMPORT_EXPIRED), IspbDenied with the index of the record, and AlreadyExists with on_conflict FAIL.
        """
        _check_scope(state.scope, chunk)
        try:
            return await self._write(state, chunk, encode)
        except _CopyConflict:
            state.use_insert = True
            return await self._write(state, chunk, encode)

    async def _write(self, state: Import, chunk: Chunk, encode: Callable[[ChunkResult], bytes]) -> bytes:
        audit_id = new_id()
        key = {"import_id": state.import_id, "number": chunk.number}
        committed = ImportCounts()

        async def work(session: Session) -> bytes:
            nonlocal committed
            row = await session.one(self._queries["lock_import"], {**key, "audit_id": str(audit_id)})
            if row is None:
                raise Aborted("CONTENTION", "The import no longer exists.")
            last_number, before = row[0], row[1:5]
            if chunk.number <= last_number:
                # Locking the import writes to the log, so this commit waits for the synchronous standbys too.
                return await self._earlier_response(session, key, chunk)
            if chunk.number != last_number + 1:
                message = "Chunk numbers must be consecutive."
                raise InvalidArgument("CHUNK_OUT_OF_ORDER", message, metadata={"last_number": str(last_number)})
            counts, rejections = await self._store(session, state, chunk)
            totals = ImportCounts(*map(sum, zip(before, counts, strict=True)))
            result = ChunkResult(chunk.number, counts, rejections, totals)
            response = encode(result)
            ispb = single_ispb(new.ispb for new in chunk.new_cids)
            stored = {**key, "fingerprint": chunk.fingerprint, "answer": response, "ispb": ispb}
            await self._finish(session, audit_id, result, stored)
            committed = counts
            return response

        response = await self._database.transaction(work, repeatable=True)
        for name, count in committed._asdict().items():
            if count:
                IMPORTED_RECORDS.labels(name).inc(count)
        return response

    async def _earlier_response(self, session: Session, key: dict[str, Any], chunk: Chunk) -> bytes:
        row = await session.one(self._queries["find_chunk"], key)
        if row is None:
            raise FailedPrecondition("IMPORT_EXPIRED", "The responses of this import are no longer stored.")
        if row[0] != chunk.fingerprint:
            violation = Violation("chunk.number", "was used before, for a chunk with other content")
            raise InvalidFields([violation], reason="CHUNK_REUSED")
        response: bytes = row[1]
        return response

    async def _store(self, session: Session, state: Import, chunk: Chunk) -> tuple[ImportCounts, Sequence[Rejection]]:
        new_cids, rejected = chunk.new_cids, len(chunk.rejections)
        inserted = len(new_cids)
        if new_cids and not state.use_insert:
            await self._copy(session, await chunk.copy_data(state.sync_status))
        elif new_cids and state.on_conflict == REPLACE:
            return await self._replace(session, state, chunk)
        elif new_cids:
            rows = chunk.rows_json()
            parameters = {"rows": rows, "sync_status": state.sync_status}
            ids = {row[0] for row in await session.all(self._queries["create_many"], parameters)}
            inserted = len(ids)
            state.use_insert = inserted < len(new_cids)
            if state.use_insert and state.on_conflict == FAIL:
                raise await self._conflict(session, state, chunk, rows, ids)
        skipped = len(new_cids) - inserted + chunk.skipped
        return ImportCounts(inserted, skipped, 0, rejected), chunk.rejections

    async def _copy(self, session: Session, data: bytes) -> None:
        try:
            query = self._queries["copy_in"]
            with QUERIES.timed(query.name):
                async with session.connection.cursor() as cursor, cursor.copy(query.sql) as copy:
                    await copy.write(data)
        except psycopg.errors.UniqueViolation as error:
            raise _CopyConflict from error

    async def _replace(self, session: Session, state: Import, chunk: Chunk) -> tuple[ImportCounts, Sequence[Rejection]]:
        """Inserts or replaces records by key and ispb. A record is rejected if its cid belongs to another key."""
        rows = chunk.rows_json()
        taken = {row[0] for row in await session.all(self._queries["cids_of_other_keys"], {"rows": rows})}
        free = [at for at, new in enumerate(chunk.new_cids) if new.cid not in taken]
        rejections = [
            *chunk.rejections,
            *(Rejection(chunk.indexes[at], "CID_EXISTS") for at, new in enumerate(chunk.new_cids) if new.cid in taken),
        ]
        rejections.sort(key=lambda rejection: rejection.position)
        inserted = replaced = 0
        if free:
            parameters = {"rows": chunk.rows_json(free), "sync_status": state.sync_status}
            written = await session.all(self._queries["replace_many"], parameters)
            inserted = sum(1 for row in written if row[0])
            replaced = len(written) - inserted
        state.use_insert = replaced > 0 or bool(taken)
        return ImportCounts(inserted, chunk.skipped, replaced, len(rejections)), rejections

    async def _conflict(
        self, session: Session, state: Import, chunk: Chunk, rows: str, inserted: set[UUID]
    ) -> ServiceError:
        query = self._queries["find_conflicts"]
        conflict = await find_conflict(session, query, rows, chunk.new_cids, inserted=inserted, scope=state.scope)
        if conflict is None:
            return Contention()  # the existing record was deleted in the meantime
        position, error = conflict
        error.metadata["index"] = str(chunk.indexes[position])
        return error

    async def _finish(
        self, session: Session, audit_id: UUID, result: ChunkResult, parameters: Mapping[str, Any]
    ) -> None:
        """Stores the chunk with its response, the totals and the audit entry."""
        call = current_context()
        payload = {"import_id": str(parameters["import_id"]), "number": result.number, **result.counts._asdict()}
        await session.run(
            self._queries["finish_chunk"],
            {
                **parameters,
                **result.totals._asdict(),
                "audit_id": audit_id,
                "audited_at": time_of(audit_id),
                "correlation_id": call.correlation_id,
                "actor": call.principal,
                "action": call.method,
                "payload": Jsonb(payload),
            },
        )


def _check_scope(scope: Scope, chunk: Chunk) -> None:
    """Raises IspbDenied for the first record outside the scope, with its index in the chunk as it was sent."""
    if scope.is_restricted:
        for index, new in zip(chunk.indexes, chunk.new_cids, strict=True):
            if new.ispb not in scope:
                raise IspbDenied(index)
