"""The stream of ImportCids: while a chunk is written, the next one is read and the response of the last one is sent."""

import asyncio
from collections.abc import AsyncIterator
from hashlib import blake2b
from typing import TypeAlias

from vsync.v1 import cid_pb2 as pb

from vsyncd.core.errors import AlreadyExists, InvalidArgument
from vsyncd.core.scope import Scope
from vsyncd.core.validation import Validator
from vsyncd.domains.cids.import_repository import (
    FAIL,
    RECORDS_PER_TURN,
    REPLACE,
    SKIP,
    Chunk,
    ChunkResult,
    Import,
    ImportCounts,
    ImportRepository,
    Rejection,
)
from vsyncd.domains.cids.messages import read_new_cid
from vsyncd.domains.cids.records import PENDING, SYNCED, NewCid

Requests: TypeAlias = AsyncIterator[pb.ImportCidsRequest]


class ImportHandler:
    """Serves ImportCids."""

    def __init__(self, repository: ImportRepository) -> None:
        self._repository = repository

    async def responses(self, requests: Requests, scope: Scope) -> AsyncIterator[pb.ImportCidsResponse]:
        """Yields a response to the start and to each chunk."""
        state = await self._open(requests, scope)
        yield pb.ImportCidsResponse(number=state.last_number, totals=_counts_message(state.totals))
        # Each queue ends with None, or with the error that ends the stream.
        chunks: asyncio.Queue[Chunk | Exception | None] = asyncio.Queue(maxsize=1)
        encoded: asyncio.Queue[bytes | Exception | None] = asyncio.Queue(maxsize=1)
        tasks = [
            asyncio.create_task(_read_chunks(requests, state, chunks)),
            asyncio.create_task(self._write_chunks(state, chunks, encoded)),
        ]
        try:
            while (response := await encoded.get()) is not None:
                if isinstance(response, Exception):
                    raise response
                yield pb.ImportCidsResponse.FromString(response)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _write_chunks(
        self,
        state: Import,
        chunks: "asyncio.Queue[Chunk | Exception | None]",
        encoded: "asyncio.Queue[bytes | Exception | None]",
    ) -> None:
        try:
            while isinstance(chunk := await chunks.get(), Chunk):
                await encoded.put(await self._repository.write(state, chunk, _encoded_response))
            await encoded.put(chunk)
        except Exception as error:  # noqa: BLE001  the receiver of the queue raises it again
            await encoded.put(error)

    async def _open(self, requests: Requests, scope: Scope) -> Import:
        request = await anext(aiter(requests), None)
        if request is None or request.WhichOneof("message") != "start":
            raise InvalidArgument("IMPORT_NOT_STARTED", "The first message of an import must be its start.")
        with Validator() as validator:
            import_id = validator.uuid("start.import_id", request.start.import_id)
            on_conflict = validator.choice("start.on_conflict", request.start.on_conflict, range(FAIL, REPLACE + 1))
            status = request.start.initial_sync_status or PENDING
            if status not in {PENDING, SYNCED}:
                validator.add("start.initial_sync_status", "must be PENDING or SYNCED")
        return await self._repository.open(import_id, on_conflict=on_conflict, sync_status=status, scope=scope)


async def _read_chunks(requests: Requests, state: Import, chunks: "asyncio.Queue[Chunk | Exception | None]") -> None:
    try:
        async for request in requests:
            chunk = await _read_chunk(request, state.on_conflict)
            if not state.use_insert:
                await chunk.copy_data(state.sync_status)
            await chunks.put(chunk)
        await chunks.put(None)
    except Exception as error:  # noqa: BLE001  the receiver of the queue raises it again
        await chunks.put(error)


async def _read_chunk(request: pb.ImportCidsRequest, on_conflict: int) -> Chunk:
    """Returns a chunk; its invalid records become rejections. Raises InvalidArgument if the chunk itself is invalid."""
    if request.WhichOneof("message") != "chunk":
        raise InvalidArgument("IMPORT_STARTED_TWICE", "Each message after the start of an import must be a chunk.")
    message = request.chunk
    with Validator() as validator:
        validator.batch("chunk.records", message.records)
        if message.number < 1:
            validator.add("chunk.number", "must be at least 1")
    new_cids: list[NewCid] = []
    indexes: list[int] = []
    rejections: list[Rejection] = []
    for index, record in enumerate(message.records):
        new = read_new_cid(record, "", validator)
        if validator.violations:
            rejections.append(Rejection(index, "INVALID_FIELD", tuple(validator.violations)))
            validator = Validator()
        else:
            new_cids.append(new)
            indexes.append(index)
        if index % RECORDS_PER_TURN == RECORDS_PER_TURN - 1:
            await asyncio.sleep(0)
    chunk = Chunk(
        number=message.number,
        fingerprint=blake2b(message.SerializeToString(deterministic=True), digest_size=16).digest(),
        new_cids=new_cids,
        indexes=indexes,
        rejections=rejections,
    )
    return _without_duplicates(chunk, on_conflict)


def _without_duplicates(chunk: Chunk, on_conflict: int) -> Chunk:
    """Removes records that repeat the cid or the key of an earlier record, as if that one were stored already."""
    cids = {new.cid for new in chunk.new_cids}
    keys = {(new.key_value, new.ispb) for new in chunk.new_cids}
    if len(cids) == len(keys) == len(chunk.new_cids):
        return chunk
    cids.clear()
    keys.clear()
    unique: list[int] = []
    duplicates: list[int] = []
    for at, new in enumerate(chunk.new_cids):
        key = (new.key_value, new.ispb)
        if new.cid in cids or key in keys:
            duplicates.append(at)
            continue
        unique.append(at)
        cids.add(new.cid)
        keys.add(key)
    if on_conflict == FAIL:
        index = chunk.indexes[duplicates[0]]
        message = "The chunk contains a cid or a key twice."
        raise AlreadyExists("DUPLICATE_IN_CHUNK", message, metadata={"index": str(index)})
    rejected = [Rejection(chunk.indexes[at], "DUPLICATE_IN_CHUNK") for at in duplicates if on_conflict == REPLACE]
    return Chunk(
        number=chunk.number,
        fingerprint=chunk.fingerprint,
        new_cids=[chunk.new_cids[at] for at in unique],
        indexes=[chunk.indexes[at] for at in unique],
        rejections=sorted([*chunk.rejections, *rejected]),
        skipped=len(duplicates) if on_conflict == SKIP else 0,
    )


def _encoded_response(result: ChunkResult) -> bytes:
    return pb.ImportCidsResponse(
        number=result.number,
        inserted=result.counts.inserted,
        skipped=result.counts.skipped,
        replaced=result.counts.replaced,
        rejected=[
            pb.RejectedRecord(
                index=rejection.position,
                reason=rejection.reason,
                violations=[
                    pb.FieldViolation(field=violation.field, description=violation.description)
                    for violation in rejection.violations
                ],
            )
            for rejection in result.rejections
        ],
        totals=_counts_message(result.totals),
    ).SerializeToString()


def _counts_message(counts: ImportCounts) -> pb.ImportTotals:
    return pb.ImportTotals(**counts._asdict())
