"""Record files in Parquet, read and written with bounded memory. Importing this module without pyarrow raises
MissingExtraError."""

import json
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import IO, Final, Self

from vsync.arrow import Batcher, record_batch
from vsync.atomic_files import STANDARD
from vsync.errors import FileError
from vsync.record_files import InvalidLine, ValidLine
from vsync.records import ENUM_FIELDS, FIELD_NAMES, FIELDS, INPUT_FIELDS, REQUIRED_COLUMNS, RecordError, record_of
from vsync.v1 import cid_pb2

# After vsync.arrow, which reports that pyarrow is missing.
import pyarrow as pa  # isort: skip
import pyarrow.parquet as pq  # isort: skip

_ROWS_PER_GROUP: Final = 50_000
_ROWS_PER_READ: Final = 1_000


class ParquetReader:
    """Reads a Parquet file like RecordReader reads a text file; a "line" is a row."""

    def __init__(self, name: str) -> None:
        """Raises FileError if the file is not Parquet or its columns are wrong, OSError if it cannot be opened."""
        self._stream = _seekable(name)
        self.size: int | None = None
        """In bytes; None for a pipe."""
        if name != STANDARD and Path(name).is_file():
            self.size = Path(name).stat().st_size
        self._rows = 0
        try:
            self._file = pq.ParquetFile(self._stream)
            self._columns = _columns(self._file.schema_arrow)
        except pa.ArrowInvalid:
            self._stream.close()
            raise FileError("the file is not a Parquet file, or it is truncated") from None
        except FileError:
            self._stream.close()
            raise

    @property
    def position(self) -> int:
        """The part of `size` that the rows so far have."""
        rows: int = self._file.metadata.num_rows
        return (self.size or 0) * self._rows // max(rows, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._stream.close()

    def __iter__(self) -> Iterator[ValidLine | InvalidLine]:
        """Yields every row. Raises FileError for damaged data."""
        try:
            for batch in self._file.iter_batches(_ROWS_PER_READ, columns=list(self._columns)):
                for row in batch.to_pylist():
                    self._rows += 1
                    yield self._line({self._columns[name]: value for name, value in row.items()})
        except (pa.ArrowException, OSError) as error:
            raise FileError(f"after row {self._rows:,}: the Parquet data is damaged") from error

    def _line(self, row: dict[str, object]) -> ValidLine | InvalidLine:
        try:
            return ValidLine(self._rows, record_of(row))
        except RecordError as error:
            return InvalidLine(self._rows, error.violations, json.dumps(row, ensure_ascii=False))


def _seekable(name: str) -> IO[bytes]:
    """Returns the open file. A pipe is first copied to a temporary file, since Parquet is read from its end."""
    if name != STANDARD and Path(name).is_file():
        return Path(name).open("rb")
    copy = TemporaryFile()  # noqa: SIM115 - the reader closes it
    if name == STANDARD:
        shutil.copyfileobj(sys.stdin.buffer, copy)
    else:
        with closing(Path(name).open("rb")) as pipe:
            shutil.copyfileobj(pipe, copy)
    copy.seek(0)
    return copy


def _columns(schema: pa.Schema) -> dict[str, str]:
    """Maps the file's columns to the fields to read. Raises FileError."""
    # pandas adds its index under such a name.
    given = [name for name in schema.names if not name.startswith("__")]
    fields = [FIELD_NAMES.get(name) for name in given]
    unknown = fields.count(None)
    missing = [name for name in REQUIRED_COLUMNS if name not in fields]
    if missing or unknown or len(set(fields)) < len(fields):
        faults = [f"missing: {', '.join(missing)}"] if missing else []
        faults += [f"{unknown} unknown"] if unknown else []
        raise FileError(
            f"invalid columns: {'; '.join(faults) or 'duplicate names'}. Expected columns out of: {', '.join(FIELDS)}"
        )
    wanted = {name: field for name, field in zip(given, fields, strict=True) if field in INPUT_FIELDS}
    for name, field in wanted.items():
        kind = schema.field(name).type
        values = kind.value_type if pa.types.is_dictionary(kind) else kind
        is_text = pa.types.is_null(values) or str(values) in {"string", "large_string", "string_view"}
        if not (is_text or (field in ENUM_FIELDS and pa.types.is_integer(values))):
            raise FileError(f"the column {field} has the type {kind}. It must be string; numbers lose leading zeros")
    return wanted


class ParquetWriter:
    """Writes records as Parquet. The file is complete at the end of the `with` block."""

    def __init__(self, stream: IO[bytes], columns: Sequence[str] = FIELDS) -> None:
        self._sink = _Sink(stream)
        self._batcher = Batcher(_ROWS_PER_GROUP, columns)
        self._writer = pq.ParquetWriter(self._sink, record_batch([], columns).schema)

    def write(self, records: Iterable[cid_pb2.CidRecord]) -> None:
        """Appends records. Raises OSError."""
        for batch in self._batcher.add(records):
            self._writer.write_batch(batch)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            for batch in self._batcher.rest():
                self._writer.write_batch(batch)
        else:
            self._sink.discard()
        self._writer.close()


class _Sink:
    """A stream for pyarrow, which needs the position, also in a pipe, and would close the stream."""

    closed = False

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream: IO[bytes] | None = stream
        self._position = 0

    def write(self, data: bytes) -> int:
        size = memoryview(data).nbytes
        if self._stream is not None:
            self._stream.write(data)
        self._position += size
        return size

    def discard(self) -> None:
        """Ignores what is written from now on."""
        self._stream = None

    def tell(self) -> int:
        return self._position

    def flush(self) -> None:
        """The owner of the stream flushes it."""

    def close(self) -> None:
        """The owner of the stream closes it."""

    def writable(self) -> bool:
        return True
