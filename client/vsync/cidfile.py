"""The directory's CID set file: one CID a line, 64 hexadecimal digits, in no order; "-" is standard input.

The file may be gzipped, have a byte order mark and upper-case digits, and end its lines with LF, CRLF or CR. Lines that
are not a CID are counted, and the first of them are kept by number.
"""

from collections.abc import Iterator
from typing import Final, Self

from vsync.binary_input import Input
from vsync.cid_codec import CID_BYTES
from vsync.errors import FileError

_DIGITS: Final = 2 * CID_BYTES
_LINE: Final = _DIGITS + 1
# The packed CIDs of a block are about a million bytes.
BLOCK_BYTES: Final = 32_000 * _LINE
MAX_LINE: Final = 1_000
MAX_BAD_LINES: Final = 10
_EXPECTED: Final = "expected one CID a line: 64 hexadecimal digits and nothing else"


class CidFile:
    """Reads such a file: iterate over it for packed CIDs. Memory does not grow with the file."""

    def __init__(self, name: str, *, allow_empty: bool = False) -> None:
        """Raises OSError.

        allow_empty: accept a file without any line, or with blank lines only, as the empty set. It is an error by
        default, because it is more often a failed download.
        """
        self._input = Input(name)
        self._allow_empty = allow_empty
        self.size = self._input.size
        """In bytes, as stored; None if unknown."""
        self.lines = 0
        self.cids = 0
        self.blank = 0
        self.bad = 0
        """Lines that are neither a CID nor blank."""
        self.bad_lines: list[int] = []
        """The numbers of the first of them, counted from 1."""
        self._first_bad = b""

    @property
    def position(self) -> int:
        """How many of the size's bytes are read."""
        return self._input.position

    def __iter__(self) -> Iterator[bytes]:
        """Yields packed CIDs, about a million bytes at a time.

        Raises FileError for a file without a single CID, damaged gzip data, and other formats (UTF-16, ZIP).
        """
        for block in self._input.blocks(BLOCK_BYTES, MAX_LINE):
            if packed := self._packed(block):
                self.cids += len(packed) // CID_BYTES
                yield packed
        if self.bad and not self.cids:
            raise FileError(f"no line is a CID; {_EXPECTED}, found {_described(self._first_bad)} in {self._where()}")
        if not (self.cids or self._allow_empty):
            raise FileError(f"the file has no CIDs; {_EXPECTED}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._input.close()

    def _packed(self, block: bytes) -> bytes:
        """The CIDs of whole lines: converted at once if every line is a CID, otherwise line by line."""
        count, rest = divmod(len(block), _LINE)
        if not rest and block[_DIGITS::_LINE] == b"\n" * count:
            packed = _from_hex(block.replace(b"\n", b""), count)
            if packed:
                self.lines += count
                return packed
        return b"".join(self._line(line) for line in block.split(b"\n")[:-1])

    def _line(self, line: bytes) -> bytes:
        self.lines += 1
        text = line.strip()
        cid = _from_hex(text, 1) if len(line) <= MAX_LINE else b""
        if not cid and not text:
            self.blank += 1
        elif not cid:
            self.bad += 1
            self._first_bad = self._first_bad or text
            if len(self.bad_lines) < MAX_BAD_LINES:
                self.bad_lines.append(self.lines)
        return cid

    def _where(self) -> str:
        return f"line {self.bad_lines[0]:,}" + (f" of {self.lines:,}" if self.lines > 1 else "")


def _from_hex(digits: bytes, count: int) -> bytes:
    """So many CIDs, or nothing if these are not their digits. The length is checked since fromhex ignores blanks."""
    if len(digits) != count * _DIGITS:
        return b""
    try:
        packed = bytes.fromhex(digits.decode("ascii"))
    except ValueError:
        return b""
    return packed if len(packed) == count * CID_BYTES else b""


def _described(line: bytes) -> str:
    """What a line that is no CID looks like, without its content."""
    if line[:1] in {b'"', b"'"}:
        return "text in quotes"
    if any(separator in line for separator in (b",", b";", b"\t")):
        return "several columns"
    if not line.isascii() or not line.decode("ascii").isprintable():
        return "binary data or non-ASCII text"
    if len(line) > MAX_LINE:
        return f"more than {MAX_LINE:,} characters"
    return f"{len(line):,} characters" if len(line) != _DIGITS else "characters that are not hexadecimal digits"
