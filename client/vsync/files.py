"""Record files: NDJSON and CSV, plain or gzipped, told apart by their names; "-" is NDJSON on stdin and stdout.

A record is one line in either form.
"""

import codecs
import csv
import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, NamedTuple, Self, cast

from vsync.errors import FileError
from vsync.failures import Violation
from vsync.input import STANDARD
from vsync.records import FIELDS, RecordError, fields_of, record_of
from vsync.v1 import cid_pb2

_SUFFIXES = {".ndjson": "ndjson", ".jsonl": "ndjson", ".csv": "csv"}
_LINE_END = re.compile(r"\r\n|\r|\n")


class FileForm(NamedTuple):
    """What a file's name says of it."""

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
    """The form of a file of that name. Raises FileError when the name does not tell."""
    if name == STANDARD:
        return FileForm(csv=False, gzipped=False)
    plain = Path(name.removesuffix(".gz"))
    form = _SUFFIXES.get(plain.suffix.lower())
    if form is None:
        raise FileError("a record file's name ends in .ndjson, .jsonl or .csv, and in .gz behind it when compressed")
    return FileForm(csv=form == "csv", gzipped=name.endswith(".gz"))


class RecordReader:
    """Reads a record file line by line: iterate over it. Memory does not grow with the file."""

    def __init__(self, name: str) -> None:
        """Raises FileError when the name does not tell the form, OSError when the file cannot be opened."""
        self._form = form_of(name)
        self._closing = ExitStack()
        self._raw: IO[bytes] = sys.stdin.buffer
        self.size: int | None = None
        """In bytes, as stored; None when it is not known."""
        if name != STANDARD:
            self._raw = self._closing.enter_context(Path(name).open("rb"))  # noqa: SIM115 - the stack closes it
            # A pipe by name has no size.
            self.size = Path(name).stat().st_size if Path(name).is_file() else None
        self.line = 0
        """The last line read."""

    @property
    def position(self) -> int:
        """How many of the size's bytes are read."""
        return self._raw.tell() if self.size is not None else 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def __iter__(self) -> Iterator[Good | Bad]:
        """Every line that is not blank. Raises FileError for a wrong CSV header, and a file that is cut off."""
        if self._form.gzipped and self.size == 0:  # GzipFile takes it for an empty one
            raise FileError("the gzip data is damaged or cut off")
        # A GzipFile is an IO[bytes] in everything but its declared type.
        stream = cast("IO[bytes]", gzip.GzipFile(fileobj=self._raw)) if self._form.gzipped else self._raw
        try:
            yield from self._csv_lines(stream) if self._form.csv else self._ndjson_lines(stream)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise FileError(f"behind line {self.line}: the gzip data is damaged or cut off") from error

    def _ndjson_lines(self, stream: Iterable[bytes]) -> Iterator[Good | Bad]:
        for self.line, line in enumerate(stream, 1):
            text = line.removeprefix(codecs.BOM_UTF8) if self.line == 1 else line
            if text.isspace() or not text:
                continue
            try:
                yield Good(self.line, _from_json(text))
            except RecordError as error:
                yield Bad(self.line, error.violations, text.decode(errors="replace").rstrip("\r\n"))

    def _csv_lines(self, stream: IO[bytes]) -> Iterator[Good | Bad]:
        # Line by line, since no value of a record holds a line end: a quote too many costs its own line, and not all
        # those up to the next quote. Bytes that are no UTF-8 become surrogates here, and a violation of their field in
        # record_of.
        lines = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
        self._closing.callback(lines.detach)
        header = _csv_header(next(lines, ""))
        for self.line, text in enumerate(lines, 2):
            if text.isspace():
                continue
            try:
                yield Good(self.line, _from_row(header, _csv_row(text)))
            except RecordError as error:
                yield Bad(self.line, error.violations, _printable(text))


def _csv_header(text: str) -> list[str]:
    try:
        header = _csv_row(text)
    except RecordError as error:
        raise FileError(f"line 1: the header {error}") from error
    missing = [name for name in ("cid", "key_type", "key_value", "ispb") if name not in header]
    unknown = [name for name in header if name not in FIELDS]
    if missing or unknown or len(set(header)) < len(header):
        raise FileError(f"line 1: the header names each column once, out of: {', '.join(FIELDS)}")
    return header


def _csv_row(text: str) -> list[str]:
    try:
        return next(csv.reader([text], strict=True), [])
    except csv.Error:
        raise RecordError(Violation("", "is no well-formed CSV line")) from None


def _from_json(text: bytes) -> cid_pb2.CidRecord:
    try:
        fields = json.loads(text.decode())
    except UnicodeDecodeError:
        raise RecordError(Violation("", "is not UTF-8")) from None
    except (ValueError, RecursionError):
        raise RecordError(Violation("", "is no well-formed JSON")) from None
    if not isinstance(fields, dict):
        raise RecordError(Violation("", "must be a JSON object"))
    return record_of(_without_reasons(fields))


def _without_reasons(fields: dict[str, object]) -> Mapping[str, object]:
    """The fields of a record, also where it stands in a file of rejected lines: that is mended and imported again.

    Raises RecordError for a rejected line that was no record, and has not been made one.
    """
    if "reason" not in fields:
        return fields
    record = fields.get("record")
    if not isinstance(record, dict):
        raise RecordError(Violation("record", "must hold the mended record, in place of the rejected text"))
    return record


def _from_row(header: list[str], row: list[str]) -> cid_pb2.CidRecord:
    if len(row) != len(header):
        raise RecordError(Violation("", f"has {len(row)} columns where the header has {len(header)}"))
    # CSV cannot tell an empty text from an absent one.
    return record_of({name: value for name, value in zip(header, row, strict=True) if value})


def _printable(line: str) -> str:
    return line.rstrip("\r\n").encode(errors="surrogateescape").decode(errors="replace")


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
