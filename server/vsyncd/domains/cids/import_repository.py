"""Imports: any number of records, in chunks that are each committed with their answer.

A chunk of new records goes in by COPY. One that clashes with what is there goes in by INSERT ... ON CONFLICT instead,
and so do the chunks behind it, until one comes without a clash: a file that was imported before is not copied in vain.
A stream's first chunk goes that way too, since nothing is known yet: the error of a COPY that clashes has the key in
it, and a server that was not told otherwise logs that.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, NamedTuple
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from vsyncd.core.context import current_context
from vsyncd.core.errors import Aborted, FailedPrecondition, InvalidArgument, InvalidFields, ServiceError, Violation
from vsyncd.core.ids import new_id, new_id_bytes, time_of
from vsyncd.domains.cids.binary_copy import copy_data, pack_row
from vsyncd.domains.cids.conflicts import first_clash, rows_of
from vsyncd.domains.cids.records import NewCid, single_ispb
from vsyncd.observability.metrics import IMPORTED_RECORDS, QUERIES
from vsyncd.postgres.database import Database
from vsyncd.postgres.error_mapping import Contention
from vsyncd.postgres.queries import queries
from vsyncd.postgres.session import Session

# After so many records, a tenth of a millisecond's work, others get a turn: the chunk that is being written waits for
# PostgreSQL five times, and would be kept waiting for us each time.
TURN: Final = 25

FAIL: Final = 1
SKIP: Final = 2
REPLACE: Final = 3


class Totals(NamedTuple):
    """Records so far, by what became of them."""

    inserted: int = 0
    skipped: int = 0
    replaced: int = 0
    rejected: int = 0

    def plus(self, other: "Totals") -> "Totals":
        """Both together."""
        return Totals(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


class Rejection(NamedTuple):
    """A record that was not taken: its place in the chunk, from 0, and why."""

    place: int
    reason: str
    violations: tuple[Violation, ...] = ()


@dataclass(kw_only=True)
class Chunk:
    """A chunk that was read: the records that can be taken with their indexes, and those that cannot."""

    number: int
    fingerprint: bytes
    news: Sequence[NewCid]
    indexes: Sequence[int]
    rejections: Sequence[Rejection] = ()
    skipped: int = 0

    _copy: bytes | None = field(default=None, init=False, repr=False)

    @cached_property
    def identifiers(self) -> Sequence[bytes]:
        """New ids for the records that can be taken, 16 bytes each."""
        return new_id_bytes(len(self.news))

    async def copy_data(self, sync_status: int) -> bytes:
        """The records that can be taken, for COPY; made once, with turns for the other calls of the process."""
        if self._copy is None:
            rows: list[bytes] = []
            for identifier, new in zip(self.identifiers, self.news, strict=True):
                rows.append(pack_row(identifier, new, sync_status=sync_status))
                if not len(rows) % TURN:
                    await asyncio.sleep(0)
            self._copy = copy_data(rows)
        return self._copy

    def rows(self, places: Iterable[int] | None = None) -> str:
        """The records that can be taken, or those at these places among them, as the JSON of the other queries."""
        chosen = range(len(self.news)) if places is None else list(places)
        return rows_of((UUID(bytes=self.identifiers[at]) for at in chosen), (self.news[at] for at in chosen))


@dataclass(slots=True, kw_only=True)
class Import:
    """An import that goes on in this stream."""

    import_id: UUID
    on_conflict: int
    sync_status: int
    last_number: int = 0
    totals: Totals = field(default_factory=Totals)
    clashing: bool = True


class Written(NamedTuple):
    """What became of a chunk."""

    number: int
    counts: Totals
    rejections: Sequence[Rejection]
    totals: Totals


# Turns what became of a chunk into the bytes that it is answered with, now and when it is sent again.
Answer = Callable[[Written], bytes]


class ImportRepository:
    """Imports in PostgreSQL."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._queries = queries("vsyncd.domains.cids", database.schema)

    async def open(self, import_id: UUID, *, on_conflict: int, sync_status: int) -> Import:
        """A new import, or one to go on with. Raises InvalidFields (IMPORT_REUSED) when it had other options."""
        wanted = (current_context().actor, on_conflict, sync_status)
        parameters = {
            "import_id": import_id,
            "actor": wanted[0],
            "on_conflict": on_conflict,
            "initial_sync_status": sync_status,
        }

        async def work(session: Session) -> Import:
            await session.run(self._queries["open_import"], parameters)
            row = await session.one(self._queries["find_import"], {"import_id": import_id})
            if row is None or tuple(row[:3]) != wanted:
                violation = Violation("start.import_id", "was used before, by another caller or with other options")
                raise InvalidFields([violation], reason="IMPORT_REUSED")
            # The client goes on behind the last chunk that it is told of.
            await self._database.wait_for_standbys(session)
            return Import(
                import_id=import_id,
                on_conflict=on_conflict,
                sync_status=sync_status,
                last_number=row[3],
                totals=Totals(*row[4:8]),
            )

        return await self._database.transaction(work, repeatable=True)

    async def write(self, imported: Import, chunk: Chunk, answer: Answer) -> bytes:
        """Commits a chunk with its answer, or finds the answer it was given before.

        Raises InvalidArgument (CHUNK_OUT_OF_ORDER, CHUNK_REUSED), FailedPrecondition (IMPORT_EXPIRED), and
        AlreadyExists with on_conflict FAIL.
        """
        try:
            return await self._attempt(imported, chunk, answer)
        except _Clash:
            imported.clashing = True
            return await self._attempt(imported, chunk, answer)

    async def _attempt(self, imported: Import, chunk: Chunk, answer: Answer) -> bytes:
        audit_id = new_id()
        counted = Totals()

        async def work(session: Session) -> bytes:
            nonlocal counted
            names = {"import_id": imported.import_id, "number": chunk.number}
            row = await session.one(self._queries["lock_import"], {**names, "audit_id": str(audit_id)})
            if row is None:
                raise Aborted("CONTENTION", "The import is gone.")
            last_number, before = row[0], Totals(*row[1:5])
            if chunk.number <= last_number:
                # The lock of the import is something to commit: this waits for the synchronous standbys too.
                return await self._answered(session, names, chunk)
            if chunk.number != last_number + 1:
                message = "Chunks come in order, without gaps."
                raise InvalidArgument("CHUNK_OUT_OF_ORDER", message, metadata={"last_number": str(last_number)})
            counts, rejections = await self._take(session, imported, chunk)
            written = Written(chunk.number, counts, rejections, before.plus(counts))
            data = answer(written)
            await self._keep(
                session,
                audit_id,
                written,
                {
                    **names,
                    "ispb": single_ispb(new.ispb for new in chunk.news),
                    "fingerprint": chunk.fingerprint,
                    "answer": data,
                },
            )
            counted = counts
            return data

        data = await self._database.transaction(work, repeatable=True)
        for result, count in counted._asdict().items():
            if count:
                IMPORTED_RECORDS.labels(result).inc(count)
        return data

    async def _answered(self, session: Session, names: dict[str, Any], chunk: Chunk) -> bytes:
        row = await session.one(self._queries["find_chunk"], names)
        if row is None:
            raise FailedPrecondition("IMPORT_EXPIRED", "The answers to this import's chunks are no longer kept.")
        if row[0] != chunk.fingerprint:
            raise InvalidFields(
                [Violation("chunk.number", "was used before, for a chunk with other content")], reason="CHUNK_REUSED"
            )
        data: bytes = row[1]
        return data

    async def _take(self, session: Session, imported: Import, chunk: Chunk) -> tuple[Totals, Sequence[Rejection]]:
        rejected = len(chunk.rejections)
        if not chunk.news:
            return Totals(0, chunk.skipped, 0, rejected), chunk.rejections
        if not imported.clashing:
            await self._copy(session, await chunk.copy_data(imported.sync_status))
            return Totals(len(chunk.news), chunk.skipped, 0, rejected), chunk.rejections
        if imported.on_conflict == REPLACE:
            return await self._replace(session, imported, chunk)
        rows = chunk.rows()
        parameters = {"rows": rows, "sync_status": imported.sync_status}
        inserted = {row[0] for row in await session.all(self._queries["create_many"], parameters)}
        if len(inserted) == len(chunk.news):
            imported.clashing = False
        elif imported.on_conflict == FAIL:
            raise await self._clash(session, chunk, rows, inserted)
        skipped = len(chunk.news) - len(inserted) + chunk.skipped
        return Totals(len(inserted), skipped, 0, rejected), chunk.rejections

    async def _copy(self, session: Session, data: bytes) -> None:
        try:
            query = self._queries["copy_in"]
            with QUERIES.timed(query.name):
                async with session.connection.cursor() as cursor, cursor.copy(query.sql) as copy:
                    await copy.write(data)
        except psycopg.errors.UniqueViolation as error:
            raise _Clash from error

    async def _replace(self, session: Session, imported: Import, chunk: Chunk) -> tuple[Totals, Sequence[Rejection]]:
        """A cid that another key holds cannot be taken from it: such a record is rejected."""
        rows = chunk.rows()
        taken = {row[0] for row in await session.all(self._queries["cids_of_other_keys"], {"rows": rows})}
        free = [at for at, new in enumerate(chunk.news) if new.cid not in taken]
        rejections = [
            *chunk.rejections,
            *(Rejection(chunk.indexes[at], "CID_EXISTS") for at, new in enumerate(chunk.news) if new.cid in taken),
        ]
        rejections.sort(key=lambda rejection: rejection.place)
        inserted = replaced = 0
        if free:
            rows = chunk.rows(free)
            parameters = {"rows": rows, "sync_status": imported.sync_status}
            written = await session.all(self._queries["replace_many"], parameters)
            inserted = sum(1 for row in written if row[0])
            replaced = len(written) - inserted
        imported.clashing = replaced > 0 or bool(taken)
        return Totals(inserted, chunk.skipped, replaced, len(rejections)), rejections

    async def _clash(self, session: Session, chunk: Chunk, rows: str, inserted: set[UUID]) -> ServiceError:
        clash = await first_clash(session, self._queries["find_clashes"], rows, chunk.news, inserted=inserted)
        if clash is None:
            return Contention()  # what was there is gone again
        index, error = clash
        error.metadata["index"] = str(chunk.indexes[index])
        return error

    async def _keep(self, session: Session, audit_id: UUID, written: Written, chunk: Mapping[str, Any]) -> None:
        """The chunk with its answer, the import's totals and the audit entry."""
        call = current_context()
        payload = {"import_id": str(chunk["import_id"]), "number": written.number, **written.counts._asdict()}
        await session.run(
            self._queries["keep_chunk"],
            {
                **chunk,
                **written.totals._asdict(),
                "audit_id": audit_id,
                "audited_at": time_of(audit_id),
                "correlation_id": call.correlation_id,
                "actor": call.actor,
                "action": call.method,
                "payload": Jsonb(payload),
            },
        )


class _Clash(Exception):  # noqa: N818  it sends a chunk on its other way, nothing more
    """COPY met a record that is there already; its transaction was rolled back."""
