"""Input files: a file, a pipe or standard input, plain or gzipped, read as lines of UTF-8 text.

Reads are unbuffered. A buffered reader holds its lock while it waits for a silent pipe. Closing it would wait too, and
the interpreter aborts a process that ends during such a read.
"""

import codecs
import select
import sys
import zlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import IO, Final, Self, cast

from vsync.atomic_files import STANDARD
from vsync.errors import FileError

_GZIP: Final = b"\x1f\x8b"
_GZIP_WBITS: Final = 16 + zlib.MAX_WBITS
_HEAD_BYTES: Final = 8
# UTF-32 comes before UTF-16, because the byte order mark of UTF-32 begins with that of UTF-16.
_OTHER_FORMATS: Final = (
    (b"PK\x03\x04", "a ZIP archive or an Excel workbook (.xlsx)"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Excel workbook (.xls)"),
    (_GZIP, "gzip data inside gzip data"),
    (codecs.BOM_UTF32_LE, "UTF-32 text"),
    (codecs.BOM_UTF32_BE, "UTF-32 text"),
    (codecs.BOM_UTF16_LE, "UTF-16 text"),
    (codecs.BOM_UTF16_BE, "UTF-16 text"),
)
_EXPECTED: Final = "expected UTF-8 text, plain or gzipped"


class InputFile:
    """An open input file; "-" is standard input. Gzip is recognised by content, whatever the file's name is."""

    def __init__(self, name: str) -> None:
        """Raises OSError."""
        self._is_ours = name != STANDARD
        self._raw: IO[bytes]
        self._name = name if self._is_ours else "standard input"
        self.size: int | None = None
        """In bytes, as stored; None if unknown."""
        if self._is_ours:
            self._raw = cast("IO[bytes]", Path(name).open("rb", buffering=0))  # noqa: SIM115 - `close` closes it
            # A named pipe has no size.
            self.size = Path(name).stat().st_size if Path(name).is_file() else None
        else:
            self._raw = getattr(sys.stdin.buffer, "raw", sys.stdin.buffer)
        self.lines = 0
        """The number of lines in the blocks so far."""

    @property
    def position(self) -> int:
        """The number of bytes that were read, out of `size`."""
        return self._raw.tell() if self.size is not None else 0

    def close(self) -> None:
        """Closes the file, unless it is standard input."""
        if self._is_ours:
            self._raw.close()

    def blocks(self, size: int, max_line: int) -> Iterator[bytes]:
        """Yields complete lines, each ended by LF, in blocks of about `size` bytes, or less if a pipe has no more yet.

        A line ends with LF, CRLF or CR. A byte order mark is removed. A line of more than `max_line` bytes is truncated
        to a length that still exceeds `max_line`. Raises FileError if the content is damaged gzip data or is recognised
        as something other than UTF-8 text.
        """
        rest = b""
        for piece in self._text(size):
            text = rest + piece
            # An LF may follow in the next piece.
            last_cr = b"\r" if text.endswith(b"\r") else b""
            if b"\r" in text:
                text = text.removesuffix(last_cr).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            end = text.rfind(b"\n") + 1
            rest = text[end : end + max_line + 1] + last_cr
            if end:
                block = text[:end]
                self.lines += block.count(b"\n")
                yield block
        if rest:
            self.lines += 1
            yield rest.removesuffix(b"\r") + b"\n"

    def _text(self, size: int) -> Iterator[bytes]:
        """Yields the content, decompressed and without a byte order mark."""
        head, pieces = _with_head(self._pieces(size))
        # An empty file is not gzip data, but its name may say that it should be.
        named_gzip = self._name.lower().endswith(".gz") and _GZIP.startswith(head)
        if head.startswith(_GZIP) or named_gzip:
            head, pieces = _with_head(self._decompressed(chain([head], pieces), size))
        _reject_other_formats(head)
        yield head.removeprefix(codecs.BOM_UTF8)
        yield from pieces

    def _pieces(self, size: int) -> Iterator[bytes]:
        while True:
            try:
                piece: bytes | None = self._raw.read(size)
            except OSError as error:
                error.filename = self._name
                raise
            if piece is None:  # a non-blocking pipe without data is not at its end
                select.select([self._raw], [], [])
            elif piece:
                yield piece
            else:
                return

    def _decompressed(self, pieces: Iterator[bytes], size: int) -> Iterator[bytes]:
        """Yields the content of gzip data, which may have several members and trailing zeros."""
        member = zlib.decompressobj(wbits=_GZIP_WBITS)
        try:
            for piece in pieces:
                rest = piece
                while rest := rest.lstrip(b"\0") if member.eof else rest:
                    if member.eof:
                        member = zlib.decompressobj(wbits=_GZIP_WBITS)
                    yield member.decompress(rest, size)
                    rest = member.unused_data if member.eof else member.unconsumed_tail
        except zlib.error as error:
            raise self._damaged() from error
        if not member.eof:
            raise self._damaged()

    def _damaged(self) -> FileError:
        return FileError(f"after line {self.lines:,}: the gzip data is damaged or truncated")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _with_head(pieces: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """Returns the first bytes, at least _HEAD_BYTES unless the content is shorter, and the remaining pieces."""
    head = b""
    for piece in pieces:
        head += piece
        if len(head) >= _HEAD_BYTES:
            break
    return head, pieces


def _reject_other_formats(head: bytes) -> None:
    for magic, found in _OTHER_FORMATS:
        if head.startswith(magic):
            raise FileError(f"the file is {found}; {_EXPECTED}")
    if b"\0" in head[:_HEAD_BYTES]:
        raise FileError(f"the file is UTF-16 text or binary data; {_EXPECTED}")
