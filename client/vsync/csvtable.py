"""CSV as spreadsheets write it: comma, semicolon or tab between the columns, a header in any case, empty rows.

A row is one line: no value of a record holds a line end. So a quote too many costs its own line only.
"""

import csv
import re
from collections.abc import Iterable, Iterator
from typing import Final, Self

from vsync.errors import FileError
from vsync.records import FIELD_NAMES, FIELDS, REQUIRED_COLUMNS, RecordError, record_of
from vsync.rpc_status import Violation
from vsync.v1 import cid_pb2

_DELIMITERS: Final = {",": "comma", ";": "semicolon", "\t": "tab"}
# Without case: the field's name, and its name in protobuf's JSON.
_COLUMNS: Final = {name.lower(): field for name, field in FIELD_NAMES.items()}
# Without digits and punctuation, so that a record in place of the header is not repeated in a message.
_SHOWN: Final = re.compile(r"[^\W\d]{1,30}").fullmatch
_MAX_SHOWN: Final = 20


class CsvTable:
    """The header of a CSV file, and the rows below it."""

    def __init__(self, header: str, line: int) -> None:
        """Reads the header, which is in that line of the file. Raises FileError."""
        headers = {delimiter: _cells_of_header(header, delimiter) for delimiter in _DELIMITERS}
        # The delimiter that yields the most known columns; for a message, the most columns.
        self._delimiter = max(headers, key=lambda each: (len(_COLUMNS.keys() & headers[each]), len(headers[each])))
        cells = headers[self._delimiter]
        self._columns = [_COLUMNS.get(cell, "") for cell in cells]
        missing = [name for name in REQUIRED_COLUMNS if name not in self._columns]
        twice = sorted({name for name in self._columns if name and self._columns.count(name) > 1})
        unknown = [cell for cell, name in zip(cells, self._columns, strict=True) if not name]
        if missing or twice or unknown:
            faults = (("missing", missing), ("given twice", twice), ("unknown", _shown(unknown)))
            raise FileError(
                f"line {line:,}: the header is not that of records: found {_described(cells, self._delimiter)}; "
                + "; ".join(f"{fault}: {', '.join(names)}" for fault, names in faults if names)
                + f". Expected columns separated by comma, semicolon or tab, out of: {', '.join(FIELDS)}"
            )

    @classmethod
    def from_lines(cls, lines: Iterator[tuple[int, bytes]]) -> Self:
        """Takes the header from the first line that is not an empty row. Raises FileError."""
        for number, line in lines:
            if line.strip(b',;\t "'):
                return cls(_header_text(line, number), number)
        raise FileError(f"line 1: the file has no header. Expected the columns {', '.join(FIELDS)}")

    def record(self, line: bytes) -> cid_pb2.CidRecord | None:
        """The record in a line, or None for an empty row. Raises RecordError."""
        # Bytes that are not UTF-8 become surrogates, and a violation of their field in record_of.
        row = _cells(line.decode(errors="surrogateescape"), self._delimiter)
        if not any(map(str.strip, row)):
            return None
        if len(row) > len(self._columns) and not any(row[len(self._columns) :]):
            row = row[: len(self._columns)]
        if len(row) != len(self._columns):
            raise RecordError(Violation("", f"has {len(row)} columns where the header has {len(self._columns)}"))
        # CSV cannot tell an empty text from an absent one.
        return record_of({name: value for name, value in zip(self._columns, row, strict=True) if value})


def _cells(text: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([text], delimiter=delimiter, strict=True), [])
    except csv.Error:
        raise RecordError(Violation("", "is no well-formed CSV line")) from None


def _cells_of_header(text: str, delimiter: str) -> list[str]:
    """The names in the header in lower case, without empty columns at its end. Empty if this delimiter is not its."""
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
            "Save the file as UTF-8; spreadsheets call it CSV UTF-8"
        ) from None


def _described(cells: list[str], delimiter: str) -> str:
    if len(cells) < 2:
        return "no comma, semicolon or tab"
    return f"{len(cells)} columns separated by {_DELIMITERS[delimiter]}"


def _shown(unknown: Iterable[str]) -> list[str]:
    """Names as they are; anything that may be the value of a record is only mentioned."""
    names = dict.fromkeys(cell if _SHOWN(cell) else "(not a name)" for cell in unknown)
    return list(names)[:_MAX_SHOWN]
