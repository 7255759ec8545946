"""Record files: NDJSON and CSV, plain or gzipped. The form is taken from the file's name; "-" is NDJSON.

A record is one line in either form.
"""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Final, NamedTuple, Self

from vsync.atomic_files import STANDARD
from vsync.binary_input import Input
from vsync.csvtable import CsvTable
from vsync.errors import FileError
from vsync.records import FIELDS, NOT_UTF8, RecordError, fields_of, record_of
from vsync.rpc_status import Violation
from vsync.v1 import cid_pb2

MAX_LINE: Final = 16 * 1024**2
"""In bytes. A record that the server accepts is much smaller."""
_BLOCK_BYTES: Final = 1 << 18
_SUFFIXES = {".ndjson": "ndjson", ".jsonl": "ndjson", ".csv": "csv"}
_LINE_END = re.compile(r"\r\n|\r|\n")


class FileForm(NamedTuple):
    """The form that a file's name tells; `gzipped` applies to writing, since reading recognises gzip by content."""

    csv: bool
    gzipped: bool


class Good(NamedTuple):
    """A line that is a record."""

    line: int
    """From 1, as an editor counts."""
    record: cid_pb2.CidRecord


class Bad(NamedTuple):
    """A line that is no record."""

    line: int
    violations: tuple[Violation, ...]
    text: str
    """The line itself."""


def form_of(name: str) -> FileForm:
    """The form of a file of that name. Raises FileError if the name does not tell."""
    if name == STANDARD:
        return FileForm(csv=False, gzipped=False)
    lower = name.lower()
    form = _SUFFIXES.get(Path(lower.removesuffix(".gz")).suffix)
    if form is None:
        raise FileError("the name of a record file ends in .ndjson, .jsonl or .csv, followed by .gz if compressed")
    return FileForm(csv=form == "csv", gzipped=lower.endswith(".gz"))


class RecordReader:
    """Reads a record file line by line: iterate over it. Memory does not grow with the file."""

    def __init__(self, name: str) -> None:
        """Raises FileError if the name does not tell the form, OSError if the file cannot be opened."""
        self._form = form_of(name)
        self._input = Input(name)
        self.size = self._input.size
        """In bytes, as stored; None if unknown."""

    @property
    def position(self) -> int:
        """How many of the size's bytes are read."""
        return self._input.position

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._input.close()

    def __iter__(self) -> Iterator[Good | Bad]:
        """Yields every line that is not blank.

        Raises FileError for a wrong CSV header, damaged gzip data, and other formats (UTF-16, ZIP).
        """
        lines = self._lines()
        parse = CsvTable.from_lines(lines).record if self._form.csv else _from_json
        for number, line in lines:
            try:
                record = parse(_bounded(line))
            except RecordError as error:
                yield Bad(number, error.violations, line.decode(errors="replace"))
            else:
                if record is not None:
                    yield Good(number, record)

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """The lines that are not blank, with their numbers from 1."""
        number = 0
        for block in self._input.blocks(_BLOCK_BYTES, MAX_LINE):
            for line in block[:-1].split(b"\n"):
                number += 1
                if line and not line.isspace():
                    yield number, line


def _bounded(line: bytes) -> bytes:
    if len(line) > MAX_LINE:
        raise RecordError(Violation("", f"must have at most {MAX_LINE:,} bytes"))
    return line


def _from_json(line: bytes) -> cid_pb2.CidRecord:
    try:
        fields = json.loads(line.decode())
    except UnicodeDecodeError:
        raise RecordError(Violation("", NOT_UTF8)) from None
    except (ValueError, RecursionError):
        raise RecordError(Violation("", "is no well-formed JSON")) from None
    if not isinstance(fields, dict):
        raise RecordError(Violation("", "must be a JSON object"))
    return record_of(_record_in(fields))


def _record_in(fields: dict[str, object]) -> Mapping[str, object]:
    """The fields of a record, which may be nested in `record`: in a rejects file and in the answer of a call.

    Raises RecordError for a line of a rejects file in which the record is still missing.
    """
    record = fields.get("record")
    if isinstance(record, dict):
        return record
    if "reason" in fields:
        raise RecordError(Violation("record", "must hold the corrected record, in place of the rejected text"))
    return fields


class RecordWriter:
    """Writes records in a form."""

    def __init__(self, stream: IO[bytes], form: FileForm, columns: Iterable[str] = FIELDS) -> None:
        self._stream = stream
        self._columns = tuple(columns) if form.csv else None
        if self._columns:
            self._write_rows([dict(zip(self._columns, self._columns, strict=True))])

    def write(self, records: Iterable[cid_pb2.CidRecord]) -> None:
        """Appends the records. Raises OSError."""
        if self._columns:
            self._write_rows(map(fields_of, records))
        else:
            lines = (json.dumps(fields_of(record), ensure_ascii=False) for record in records)
            self._stream.write("".join(f"{line}\n" for line in lines).encode())

    def _write_rows(self, rows: Iterable[dict[str, str | int]]) -> None:
        buffer = io.StringIO()
        columns = self._columns or ()
        # Ends lines as RFC 4180 does.
        csv.writer(buffer).writerows([_in_one_line(row.get(name, "")) for name in columns] for row in rows)
        self._stream.write(buffer.getvalue().encode())


def _in_one_line(value: str | int) -> str | int:
    """As a reader of lines can take it: a last_error alone may hold line ends, which NDJSON keeps."""
    return _LINE_END.sub(" ", value) if isinstance(value, str) else value
