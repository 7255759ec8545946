"""Opens record files for reading and writing in any format. Parquet needs pyarrow, which is imported only for it."""

from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import IO, Final, Protocol, Self

from vsync.cid_codec import CID_BYTES, from_hex
from vsync.cid_file import MAX_INVALID_LINES
from vsync.errors import FileError
from vsync.record_files import FileFormat, InvalidLine, RecordReader, RecordWriter, ValidLine, file_format
from vsync.records import FIELDS
from vsync.v1 import cid_pb2

_BLOCK_BYTES: Final = 1 << 20


class Reader(Protocol):
    """An open record file: an iterable of lines, or of rows."""

    size: int | None

    @property
    def position(self) -> int: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def __iter__(self) -> Iterator[ValidLine | InvalidLine]: ...


class Writer(Protocol):
    """A record file that is written; complete at the end of the `with` block."""

    def write(self, records: Iterable[cid_pb2.CidRecord]) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


def open_records(name: str, kind: str | None = None) -> Reader:
    """Opens a record file, in the format `kind` or that of its name.

    Raises FileError if the file cannot be used, OSError if it cannot be opened, and MissingExtraError.
    """
    form = file_format(name, kind)
    if form.kind == "parquet":
        from vsync.parquet_files import ParquetReader  # noqa: PLC0415 - pyarrow may be missing

        return ParquetReader(name)
    return RecordReader(name, form)


def record_writer(stream: IO[bytes], form: FileFormat, columns: Sequence[str] = FIELDS) -> Writer:
    """Returns a writer of records with these columns. Raises OSError, MissingExtraError."""
    if form.kind == "parquet":
        from vsync.parquet_files import ParquetWriter  # noqa: PLC0415 - pyarrow may be missing

        return ParquetWriter(stream, columns)
    return RecordWriter(stream, form, columns)


class CidsOfRecords:
    """The CIDs in a record file of one participant and key type, to be compared like a CidFile."""

    blank = 0

    def __init__(self, reader: Reader, *, ispb: str, key_type: int, allow_empty: bool = False) -> None:
        """`allow_empty`: see CidFile."""
        self._reader = reader
        self._allow_empty = allow_empty
        self._wanted = (ispb, key_type)
        self.size = reader.size
        self.cids = 0
        self.invalid = 0
        """The number of lines that are not a record with a CID."""
        self.invalid_lines: list[int] = []

    @property
    def position(self) -> int:
        """The number of bytes that were read, out of `size`."""
        return self._reader.position

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.__exit__()

    def __iter__(self) -> Iterator[bytes]:
        """Yields packed CIDs, about a million bytes at a time. Raises FileError."""
        packed = bytearray()
        for entry in self._reader:
            if isinstance(entry, ValidLine):
                if (entry.record.ispb, entry.record.key_type) != self._wanted:
                    continue
                cid = entry.record.cid
                if len(cid) == 2 * CID_BYTES and (digits := from_hex(cid, 1)):
                    packed += digits
                    self.cids += 1
                    if len(packed) >= _BLOCK_BYTES:
                        yield bytes(packed)
                        packed.clear()
                    continue
            self.invalid += 1
            if len(self.invalid_lines) < MAX_INVALID_LINES:
                self.invalid_lines.append(entry.line)
        if packed:
            yield bytes(packed)
        if not (self.cids or self._allow_empty):
            raise FileError("the file has no CIDs of this participant and key type")
