"""The directory's CID set file: one CID a line, 64 hexadecimal digits, in no order; also gzipped (.gz); "-" is stdin.

Windows line ends, its byte order mark and upper case are taken as they are meant. What is no CID is counted, and named
by its line.
"""

from codecs import BOM_UTF8
from collections.abc import Iterator
from typing import IO, Self

from vsync.errors import FileError
from vsync.input import Damaged, Input, filled
from vsync.packed import CID_BYTES

_DIGITS = 2 * CID_BYTES
_LINE = _DIGITS + 1
# A million bytes of packed CIDs come from a little more than two of lines.
READ = 32_000 * _LINE
NAMED = 10


class CidFile:
    """Reads such a file: iterate over it for packed CIDs. Memory does not grow with the file."""

    def __init__(self, name: str) -> None:
        """Raises OSError."""
        self._input = Input(name)
        self.size = self._input.size
        """In bytes, as stored; None when it is not known."""
        self.lines = 0
        self.cids = 0
        self.blank = 0
        self.bad = 0
        """Lines that are neither a CID nor blank."""
        self.bad_lines: list[int] = []
        """The first few of them, from 1, as an editor counts."""

    @property
    def position(self) -> int:
        """How many of the size's bytes are read."""
        return self._input.position

    def __iter__(self) -> Iterator[bytes]:
        """Packed CIDs, at most a million bytes at a time. Raises FileError for gzip data that is damaged."""
        try:
            with self._input.unpacked() as stream:
                yield from self._packed(stream)
        except Damaged as error:
            raise FileError(f"behind line {self.lines}: the gzip data is damaged or cut off") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._input.close()

    def _packed(self, stream: IO[bytes]) -> Iterator[bytes]:
        rest = b""
        data = filled(stream, READ).removeprefix(BOM_UTF8)
        while data:
            whole, newline, rest = (rest + data).rpartition(b"\n")
            if newline:
                yield from self._lines(whole + newline)
            elif len(rest) > READ:
                rest = b"-" * _LINE  # no line is so long: what goes on here is bad, however it ends
            data = filled(stream, READ)
        if rest:
            yield from self._lines(rest + b"\n")

    def _lines(self, text: bytes) -> Iterator[bytes]:
        """The CIDs of whole lines: all at once when each is one, else line by line."""
        if b"\r" in text:
            text = text.replace(b"\r\n", b"\n")
        count, rest = divmod(len(text), _LINE)
        packed = b""
        if not rest and text[_DIGITS::_LINE] == b"\n" * count:
            packed = _from_hex(text.replace(b"\n", b""), count)
        if packed:
            self.lines += count
        else:
            packed = b"".join(self._line(line) for line in text.split(b"\n")[:-1])
        self.cids += len(packed) // CID_BYTES
        if packed:
            yield packed

    def _line(self, line: bytes) -> bytes:
        self.lines += 1
        cid = _from_hex(line.strip(), 1)
        if not cid and not line.strip():
            self.blank += 1
        elif not cid:
            self.bad += 1
            if len(self.bad_lines) < NAMED:
                self.bad_lines.append(self.lines)
        return cid


def _from_hex(digits: bytes, count: int) -> bytes:
    """So many CIDs; nothing when these are not their digits: fromhex passes over blanks."""
    if len(digits) != count * _DIGITS:
        return b""
    try:
        packed = bytes.fromhex(digits.decode("ascii"))
    except ValueError:
        return b""
    return packed if len(packed) == count * CID_BYTES else b""
