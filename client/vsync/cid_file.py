"""The directory's CID set file: one CID per line, 64 hexadecimal digits, in no order; "-" is standard input.

The file may be gzipped, begin with a byte order mark, have upper-case digits, and end its lines with LF, CRLF or CR.
Invalid lines are counted, and the numbers of the first ones are kept.
"""

from collections.abc import Iterator
from typing import Final, Self

from vsync.cid_codec import CID_BYTES, from_hex
from vsync.errors import FileError
from vsync.input_file import InputFile

_DIGITS: Final = 2 * CID_BYTES
_LINE_BYTES: Final = _DIGITS + 1
# The packed CIDs of a block have about a million bytes.
BLOCK_BYTES: Final = 32_000 * _LINE_BYTES
MAX_LINE_BYTES: Final = 1_000
MAX_INVALID_LINES: Final = 10
_EXPECTED: Final = "expected one CID per line: 64 hexadecimal digits and nothing else"


class CidFile:
    """Reads a CID set file: an iterable of packed CIDs. Memory does not grow with the file."""

    def __init__(self, name: str, *, allow_empty: bool = False) -> None:
        """Raises OSError.

        `allow_empty`: accept a file without lines, or with only blank lines, as the empty set. By default it is an
        error, because an empty file is more often a failed download.
        """
        self._input = InputFile(name)
        self._allow_empty = allow_empty
        self.size = self._input.size
        """In bytes, as stored; None if unknown."""
        self.lines = 0
        self.cids = 0
        self.blank = 0
        self.invalid = 0
        """The number of lines that are neither a CID nor blank."""
        self.invalid_lines: list[int] = []
        """The numbers of the first MAX_INVALID_LINES of them, counted from 1."""
        self._first_invalid = b""

    @property
    def position(self) -> int:
        """The number of bytes that were read, out of `size`."""
        return self._input.position

    def __iter__(self) -> Iterator[bytes]:
        """Yields packed CIDs, about a million bytes at a time.

        Raises FileError for a file without a single CID, damaged gzip data, and other formats (UTF-16, ZIP).
        """
        for block in self._input.blocks(BLOCK_BYTES, MAX_LINE_BYTES):
            if packed := self._packed(block):
                self.cids += len(packed) // CID_BYTES
                yield packed
        if self.invalid and not self.cids:
            where = f"line {self.invalid_lines[0]:,}" + (f" of {self.lines:,}" if self.lines > 1 else "")
            raise FileError(f"no line is a CID; {_EXPECTED}, found {_described(self._first_invalid)} in {where}")
        if not (self.cids or self._allow_empty):
            raise FileError(f"the file has no CIDs; {_EXPECTED}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._input.close()

    def _packed(self, block: bytes) -> bytes:
        """Returns the CIDs of complete lines, converted at once if every line is a CID, otherwise line by line."""
        count, rest = divmod(len(block), _LINE_BYTES)
        if not rest and block[_DIGITS::_LINE_BYTES] == b"\n" * count:
            packed = _from_ascii(block.replace(b"\n", b""), count)
            if packed:
                self.lines += count
                return packed
        return b"".join(self._line(line) for line in block.split(b"\n")[:-1])

    def _line(self, line: bytes) -> bytes:
        self.lines += 1
        text = line.strip()
        cid = _from_ascii(text, 1) if len(line) <= MAX_LINE_BYTES else b""
        if not cid and not text:
            self.blank += 1
        elif not cid:
            self.invalid += 1
            self._first_invalid = self._first_invalid or text
            if len(self.invalid_lines) < MAX_INVALID_LINES:
                self.invalid_lines.append(self.lines)
        return cid


def _from_ascii(digits: bytes, count: int) -> bytes:
    return from_hex(digits.decode("ascii"), count) if digits.isascii() else b""


def _described(line: bytes) -> str:
    """Describes an invalid line without its content."""
    if line[:1] in {b'"', b"'"}:
        return "text in quotes"
    if any(separator in line for separator in (b",", b";", b"\t")):
        return "several columns"
    if not line.isascii() or not line.decode("ascii").isprintable():
        return "binary data or non-ASCII text"
    if len(line) > MAX_LINE_BYTES:
        return f"more than {MAX_LINE_BYTES:,} characters"
    return f"{len(line):,} characters" if len(line) != _DIGITS else "characters that are not hexadecimal digits"
