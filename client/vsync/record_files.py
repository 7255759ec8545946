"""Record files: NDJSON and CSV, plain or gzipped. The file's name determines the format; "-" is NDJSON.

A record is one line in both formats. CSV may be written by a spreadsheet: with comma, semicolon or tab as the
delimiter, a header in any case, and empty rows. An unbalanced quote affects only its own line.
"""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Final, NamedTuple, Self

from vsync.atomic_files import STANDARD
from vsync.errors import FieldViolation, FileError
from vsync.input_file import InputFile
from vsync.records import FIELD_NAMES, FIELDS, NOT_UTF8, REQUIRED_COLUMNS, RecordError, fields_of, record_of
from vsync.v1 import cid_pb2

MAX_LINE_BYTES: Final = 16 * 1024**2
"""A record that the server accepts is much smaller."""
_BLOCK_BYTES: Final = 1 << 18
_SUFFIXES: Final = {".ndjson": "ndjson", ".jsonl": "ndjson", ".csv": "csv", ".parquet": "parquet"}
_LINE_END = re.compile(r"\r\n|\r|\n")
_DELIMITERS: Final = {",": "comma", ";": "semicolon", "\t": "tab"}
# Both names of each field in lower case, and the field's own name.
_COLUMNS: Final = {name.lower(): field for name, field in FIELD_NAMES.items()}
# Excludes digits and punctuation, so that no value of a record appears in an error message as a column's name.
_IS_NAME: Final = re.compile(r"[^\W\d]{1,30}").fullmatch
_MAX_SHOWN_NAMES: Final = 20


class FileFormat(NamedTuple):
    """The format of a record file. `gzipped` applies to writing, since reading recognises gzip by content."""

    kind: str
    """ndjson, csv, parquet, or cids: only the CIDs, one per line."""
    gzipped: bool = False


class ValidLine(NamedTuple):
    """A line that contains a record."""

    line: int
    """Its number, counted from 1."""
    record: cid_pb2.CidRecord


class InvalidLine(NamedTuple):
    """A line that does not contain a record."""

    line: int
    violations: tuple[FieldViolation, ...]
    text: str


def file_format(name: str, kind: str | None = None) -> FileFormat:
    """Returns the format of a file: `kind`, or else that of its name. Raises FileError for an unknown suffix."""
    lower = name.lower()
    gzipped = lower.endswith(".gz")
    if kind is None:
        kind = "ndjson" if name == STANDARD else _SUFFIXES.get(Path(lower.removesuffix(".gz")).suffix)
    if kind is None or (kind == "parquet" and gzipped):
        raise FileError(
            "the name of a record file must end in .ndjson, .jsonl or .csv, followed by .gz if it is compressed, or in "
            ".parquet"
        )
    return FileFormat(kind, gzipped)


class RecordReader:
    """Reads a record file: an iterable of lines. Memory does not grow with the file."""

    def __init__(self, name: str, form: FileFormat | None = None) -> None:
        """Raises FileError if the name has no known suffix, OSError if the file cannot be opened."""
        self._format = form or file_format(name)
        self._input = InputFile(name)
        self.size = self._input.size
        """In bytes, as stored; None if unknown."""

    @property
    def position(self) -> int:
        """The number of bytes that were read, out of `size`."""
        return self._input.position

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._input.close()

    def __iter__(self) -> Iterator[ValidLine | InvalidLine]:
        """Yields every line that is not blank.

        Raises FileError for an invalid CSV header, damaged gzip data, and other formats (UTF-16, ZIP).
        """
        lines = self._lines()
        parse = _CsvTable.from_lines(lines).record if self._format.kind == "csv" else _record_from_json
        for number, line in lines:
            try:
                record = parse(_checked_size(line))
            except RecordError as error:
                yield InvalidLine(number, error.violations, line.decode(errors="replace"))
            else:
                if record is not None:
                    yield ValidLine(number, record)

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """Yields the lines that are not blank, with their numbers from 1."""
        number = 0
        for block in self._input.blocks(_BLOCK_BYTES, MAX_LINE_BYTES):
            for line in block[:-1].split(b"\n"):
                number += 1
                if line and not line.isspace():
                    yield number, line


def _checked_size(line: bytes) -> bytes:
    if len(line) > MAX_LINE_BYTES:
        raise RecordError(FieldViolation("", f"must have at most {MAX_LINE_BYTES:,} bytes"))
    return line


def _record_from_json(line: bytes) -> cid_pb2.CidRecord:
    try:
        fields = json.loads(line.decode())
    except UnicodeDecodeError:
        raise RecordError(FieldViolation("", NOT_UTF8)) from None
    except (ValueError, RecursionError):
        raise RecordError(FieldViolation("", "is not well-formed JSON")) from None
    if not isinstance(fields, dict):
        raise RecordError(FieldViolation("", "must be a JSON object"))
    # A rejects file and the response of a call contain the record as the field `record`.
    record = fields.get("record")
    if isinstance(record, dict):
        return record_of(record)
    if "reason" in fields:
        raise RecordError(FieldViolation("record", "must contain the corrected record instead of the rejected text"))
    return record_of(fields)


class _CsvTable:
    """The header of a CSV file, and a parser for its rows."""

    def __init__(self, header: str, line: int) -> None:
        """Parses the header, which is that line of the file. Raises FileError."""
        headers = {delimiter: _header_cells(header, delimiter) for delimiter in _DELIMITERS}
        # The delimiter that yields the most known columns, or else the most columns.
        self._delimiter = max(headers, key=lambda each: (len(_COLUMNS.keys() & headers[each]), len(headers[each])))
        cells = headers[self._delimiter]
        self._columns = [_COLUMNS.get(cell, "") for cell in cells]
        missing = [name for name in REQUIRED_COLUMNS if name not in self._columns]
        duplicate = sorted({name for name in self._columns if name and self._columns.count(name) > 1})
        unknown = [cell for cell, name in zip(cells, self._columns, strict=True) if not name]
        if missing or duplicate or unknown:
            faults = (("missing", missing), ("duplicate", duplicate), ("unknown", _shown(unknown)))
            found = f"{len(cells)} columns separated by {_DELIMITERS[self._delimiter]}"
            raise FileError(
                f"line {line:,}: invalid header: "
                f"found {found if len(cells) > 1 else 'no comma, semicolon or tab'}; "
                + "; ".join(f"{fault}: {', '.join(names)}" for fault, names in faults if names)
                + f". Expected columns separated by comma, semicolon or tab, out of: {', '.join(FIELDS)}"
            )

    @classmethod
    def from_lines(cls, lines: Iterator[tuple[int, bytes]]) -> Self:
        """Parses the first line that is not an empty row as the header. Raises FileError."""
        for number, line in lines:
            if line.strip(b',;\t "'):
                return cls(_header_text(line, number), number)
        raise FileError(f"line 1: the file has no header. Expected the columns {', '.join(FIELDS)}")

    def record(self, line: bytes) -> cid_pb2.CidRecord | None:
        """Returns the record in a line, or None for an empty row. Raises RecordError."""
        # Bytes that are not UTF-8 become surrogates, which record_of reports as a violation of their field.
        row = _cells(line.decode(errors="surrogateescape"), self._delimiter)
        if not any(map(str.strip, row)):
            return None
        if len(row) > len(self._columns) and not any(row[len(self._columns) :]):
            row = row[: len(self._columns)]
        if len(row) != len(self._columns):
            raise RecordError(FieldViolation("", f"has {len(row)} columns, but the header has {len(self._columns)}"))
        # CSV cannot distinguish an empty text from an absent one.
        return record_of({name: value for name, value in zip(self._columns, row, strict=True) if value})


def _cells(text: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([text], delimiter=delimiter, strict=True), [])
    except csv.Error:
        raise RecordError(FieldViolation("", "is not a well-formed CSV line")) from None


def _header_cells(text: str, delimiter: str) -> list[str]:
    """Returns the columns of the header in lower case, without trailing empty ones. Empty if it cannot be parsed."""
    try:
        cells = [cell.strip().lower() for cell in _cells(text, delimiter)]
    except RecordError:
        return []
    while cells and not cells[-1]:
        cells.pop()
    return cells


def _header_text(line: bytes, number: int) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise FileError(
            f"line {number:,}: the header is not UTF-8 text, but probably Windows-1252 (Latin-1). "
            "Save the file as UTF-8; spreadsheets call this format CSV UTF-8"
        ) from None


def _shown(unknown: Iterable[str]) -> list[str]:
    """Returns the names for an error message. A text that may be a value of a record is replaced."""
    names = dict.fromkeys(cell if _IS_NAME(cell) else "(not a name)" for cell in unknown)
    return list(names)[:_MAX_SHOWN_NAMES]


class RecordWriter:
    """Writes records in a format."""

    def __init__(self, stream: IO[bytes], form: FileFormat, columns: Iterable[str] = FIELDS) -> None:
        """Writes the header of a CSV file with these columns. Raises OSError."""
        self._stream = stream
        self._columns = tuple(columns) if form.kind == "csv" else ()
        if self._columns:
            self._write_rows([{name: name for name in self._columns}])

    def write(self, records: Iterable[cid_pb2.CidRecord]) -> None:
        """Appends records. Raises OSError."""
        if self._columns:
            self._write_rows(map(fields_of, records))
        else:
            lines = (json.dumps(fields_of(record), ensure_ascii=False) for record in records)
            self._stream.write("".join(f"{line}\n" for line in lines).encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """The owner of the stream closes it."""

    def _write_rows(self, rows: Iterable[Mapping[str, str | int]]) -> None:
        buffer = io.StringIO()
        # Lines end with CRLF, as in RFC 4180. Only last_error may contain line ends; NDJSON keeps them.
        csv.writer(buffer).writerows(
            [_LINE_END.sub(" ", str(row.get(name, ""))) for name in self._columns] for row in rows
        )
        self._stream.write(buffer.getvalue().encode())
