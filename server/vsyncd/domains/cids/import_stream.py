"""ImportCids on the wire: chunks are read, validated and packed while the one before is being written, and that is
answered while the next one is."""

import asyncio
from collections.abc import AsyncIterator
from hashlib import blake2b

from vsync.v1 import cid_pb2 as pb

from vsyncd.core.errors import AlreadyExists, InvalidArgument
from vsyncd.core.validation import Validator
from vsyncd.domains.cids.import_repository import (
    FAIL,
    REPLACE,
    SKIP,
    TURN,
    Chunk,
    Import,
    ImportRepository,
    Rejection,
    Totals,
    Written,
)
from vsyncd.domains.cids.messages import read_new_cid
from vsyncd.domains.cids.records import PENDING, SYNCED, NewCid


class ImportStream:
    """Serves imports."""

    def __init__(self, repository: ImportRepository) -> None:
        self._repository = repository

    async def responses(self, requests: AsyncIterator[pb.ImportCidsRequest]) -> AsyncIterator[pb.ImportCidsResponse]:
        """The answers to a stream of requests: one to its start, one to each chunk."""
        imported = await self._open(requests)
        yield pb.ImportCidsResponse(number=imported.last_number, totals=_totals(imported.totals))
        chunks: asyncio.Queue[Chunk | Exception | None] = asyncio.Queue(maxsize=1)
        answers: asyncio.Queue[bytes | Exception | None] = asyncio.Queue(maxsize=1)
        tasks = [
            asyncio.create_task(_read_ahead(requests, imported, chunks)),
            asyncio.create_task(self._write(imported, chunks, answers)),
        ]
        try:
            while (answer := await answers.get()) is not None:
                if isinstance(answer, Exception):
                    raise answer
                yield pb.ImportCidsResponse.FromString(answer)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _write(
        self,
        imported: Import,
        chunks: "asyncio.Queue[Chunk | Exception | None]",
        answers: "asyncio.Queue[bytes | Exception | None]",
    ) -> None:
        """Puts each chunk's answer, or the error that ends the stream, or None behind the last."""
        try:
            while (chunk := await chunks.get()) is not None:
                if isinstance(chunk, Exception):
                    await answers.put(chunk)
                    return
                await answers.put(await self._repository.write(imported, chunk, _answer))
        except Exception as error:  # noqa: BLE001  it is raised again, where the answers are given
            await answers.put(error)
        else:
            await answers.put(None)

    async def _open(self, requests: AsyncIterator[pb.ImportCidsRequest]) -> Import:
        request = await anext(aiter(requests), None)
        if request is None or request.WhichOneof("message") != "start":
            raise InvalidArgument("IMPORT_NOT_STARTED", "The first message of an import is its start.")
        validator = Validator()
        import_id = validator.uuid("start.import_id", request.start.import_id)
        on_conflict = validator.choice("start.on_conflict", request.start.on_conflict, range(FAIL, REPLACE + 1))
        status = request.start.initial_sync_status or PENDING
        if status not in {PENDING, SYNCED}:
            validator.add("start.initial_sync_status", "must be PENDING or SYNCED")
        validator.raise_any()
        return await self._repository.open(import_id, on_conflict=on_conflict, sync_status=status)


async def _read_ahead(
    requests: AsyncIterator[pb.ImportCidsRequest], imported: Import, chunks: "asyncio.Queue[Chunk | Exception | None]"
) -> None:
    """Puts each chunk, or the error that ends the stream, or None behind the last."""
    try:
        async for request in requests:
            chunk = await _read(request, imported.on_conflict)
            if not imported.clashing:
                await chunk.copy_data(imported.sync_status)
            await chunks.put(chunk)
    except Exception as error:  # noqa: BLE001  it is raised again, where the answers are given
        await chunks.put(error)
    else:
        await chunks.put(None)


async def _read(request: pb.ImportCidsRequest, on_conflict: int) -> Chunk:
    """A chunk with its bad records set apart. Raises InvalidArgument when it is none, or is bad itself."""
    if request.WhichOneof("message") != "chunk":
        raise InvalidArgument("IMPORT_STARTED_TWICE", "Every message of an import behind its start is a chunk.")
    message = request.chunk
    validator = Validator()
    validator.batch("chunk.records", message.records)
    if message.number < 1:
        validator.add("chunk.number", "must be at least 1")
    validator.raise_any()
    news: list[NewCid] = []
    indexes: list[int] = []
    rejections: list[Rejection] = []
    for index, record in enumerate(message.records):
        new = read_new_cid(record, "", validator)
        if validator.violations:
            rejections.append(Rejection(index, "INVALID_FIELD", tuple(validator.violations)))
            validator = Validator()
        else:
            news.append(new)
            indexes.append(index)
        if index % TURN == TURN - 1:
            await asyncio.sleep(0)
    chunk = Chunk(
        number=message.number,
        fingerprint=blake2b(message.SerializeToString(deterministic=True), digest_size=16).digest(),
        news=news,
        indexes=indexes,
        rejections=rejections,
    )
    return _without_doubles(chunk, on_conflict)


def _without_doubles(chunk: Chunk, on_conflict: int) -> Chunk:
    """Sets apart what repeats a cid or a key of an earlier record of the chunk: that one counts as stored already."""
    cids = {new.cid for new in chunk.news}
    keys = {(new.key_value, new.ispb) for new in chunk.news}
    if len(cids) == len(keys) == len(chunk.news):
        return chunk
    cids.clear()
    keys.clear()
    first: list[int] = []
    doubles: list[int] = []
    for at, new in enumerate(chunk.news):
        key = (new.key_value, new.ispb)
        if new.cid in cids or key in keys:
            doubles.append(at)
            continue
        first.append(at)
        cids.add(new.cid)
        keys.add(key)
    if on_conflict == FAIL:
        index = chunk.indexes[doubles[0]]
        raise AlreadyExists(
            "DUPLICATE_IN_CHUNK", "A cid or a key stands twice in the chunk.", metadata={"index": str(index)}
        )
    rejected = [Rejection(chunk.indexes[at], "DUPLICATE_IN_CHUNK") for at in doubles] if on_conflict == REPLACE else []
    return Chunk(
        number=chunk.number,
        fingerprint=chunk.fingerprint,
        news=[chunk.news[at] for at in first],
        indexes=[chunk.indexes[at] for at in first],
        rejections=sorted([*chunk.rejections, *rejected]),
        skipped=len(doubles) if on_conflict == SKIP else 0,
    )


def _answer(written: Written) -> bytes:
    counts = written.counts
    return pb.ImportCidsResponse(
        number=written.number,
        inserted=counts.inserted,
        skipped=counts.skipped,
        replaced=counts.replaced,
        rejected=[
            pb.RejectedRecord(
                index=rejection.place,
                reason=rejection.reason,
                violations=[
                    pb.FieldViolation(field=violation.field, description=violation.description)
                    for violation in rejection.violations
                ],
            )
            for rejection in written.rejections
        ],
        totals=_totals(written.totals),
    ).SerializeToString()


def _totals(totals: Totals) -> pb.ImportTotals:
    return pb.ImportTotals(**totals._asdict())
