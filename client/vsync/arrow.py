"""Records as Arrow record batches. Importing this module without pyarrow raises MissingExtraError.

Codes are strings, because numbers would lose their leading zeros. Enumerations are strings with the names that record
files use, and times are timestamps in UTC.
"""

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence

from vsync.errors import MissingExtraError
from vsync.records import FIELDS, TIMES, fields_of
from vsync.v1 import cid_pb2

try:
    import pyarrow as pa
except ImportError:
    raise MissingExtraError("Parquet and Arrow need pyarrow: pip install 'vsyncd[arrow]'") from None

_TYPES = dict.fromkeys(TIMES, pa.timestamp("us", "UTC")) | {"revision": pa.int64()}
SCHEMA = pa.schema([(name, _TYPES.get(name, pa.string())) for name in FIELDS])


def record_batch(records: Iterable[cid_pb2.CidRecord], columns: Sequence[str] = FIELDS) -> pa.RecordBatch:
    """Returns the records as one batch. A field that a record lacks is null."""
    rows = [fields_of(record) for record in records]
    schema = pa.schema([SCHEMA.field(name) for name in columns])
    # Strings in RFC 3339 become timestamps.
    arrays = [pa.array([row.get(field.name) for row in rows]).cast(field.type) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


class Batcher:
    """Collects records and returns them in batches of `max_rows`."""

    def __init__(self, max_rows: int, columns: Sequence[str] = FIELDS) -> None:
        """Raises ValueError if max_rows is not positive."""
        if max_rows < 1:
            raise ValueError("max_rows must be 1 or more")
        self._max_rows = max_rows
        self._columns = columns
        self._records: list[cid_pb2.CidRecord] = []

    def add(self, records: Iterable[cid_pb2.CidRecord]) -> Iterator[pa.RecordBatch]:
        """Yields the batches that are full."""
        self._records.extend(records)
        while len(self._records) >= self._max_rows:
            yield record_batch(self._records[: self._max_rows], self._columns)
            del self._records[: self._max_rows]

    def rest(self) -> Iterator[pa.RecordBatch]:
        """Yields the last batch, if there are records left."""
        if self._records:
            yield record_batch(self._records, self._columns)
            self._records = []


def _batcher(max_rows: int, request: cid_pb2.ExportCidsRequest) -> Batcher:
    if request.cids_only:
        raise ValueError("record batches need records: cids_only must not be set")
    return Batcher(max_rows)


def read_batches(
    messages: Iterable[cid_pb2.ExportCidsResponse], max_rows: int, request: cid_pb2.ExportCidsRequest
) -> pa.RecordBatchReader:
    """Returns a reader of an export's records. Raises ValueError as `to_arrow` does."""
    batcher = _batcher(max_rows, request)

    def batches() -> Iterator[pa.RecordBatch]:
        for message in messages:
            yield from batcher.add(message.records)
        yield from batcher.rest()

    return pa.RecordBatchReader.from_batches(SCHEMA, batches())


def read_batches_async(
    messages: AsyncIterator[cid_pb2.ExportCidsResponse], max_rows: int, request: cid_pb2.ExportCidsRequest
) -> AsyncIterator[pa.RecordBatch]:
    """Returns an export's records in batches. Raises ValueError as `to_arrow` does."""
    batcher = _batcher(max_rows, request)

    async def batches() -> AsyncIterator[pa.RecordBatch]:
        async for message in messages:
            for batch in batcher.add(message.records):
                yield batch
        for batch in batcher.rest():
            yield batch

    return batches()
