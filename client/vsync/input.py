"""A file, a pipe or standard input, read without a buffer.

A read from a buffer holds its lock for as long as the pipe is silent: whoever then closes it waits as well, and a
process that ends meanwhile is aborted by the interpreter.
"""

import gzip
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Self, cast

STANDARD = "-"


class Input:
    """What stands under a name, or comes in by standard input ("-"); gzipped when the name ends in .gz."""

    def __init__(self, name: str) -> None:
        """Raises OSError."""
        self._is_ours = name != STANDARD
        self._raw: IO[bytes]
        self._name = name if self._is_ours else "standard input"
        self.size: int | None = None
        """In bytes, as stored; None when it is not known."""
        if self._is_ours:
            self._raw = cast("IO[bytes]", Path(name).open("rb", buffering=0))  # noqa: SIM115 - `close` closes it
            # A pipe by name has no size.
            self.size = Path(name).stat().st_size if Path(name).is_file() else None
        else:
            self._raw = getattr(sys.stdin.buffer, "raw", sys.stdin.buffer)
        self._gzipped = name.endswith(".gz")
        self._taken = 0

    @property
    def position(self) -> int:
        """How many of the size's bytes are read."""
        return self._raw.tell() if self.size is not None else 0

    def close(self) -> None:
        """Close it, unless it is standard input."""
        if self._is_ours:
            self._raw.close()

    def read(self, size: int = -1) -> bytes:
        """At most so many bytes, as stored; none at the end."""
        try:
            data = self._raw.read(size)
        except OSError as error:
            error.filename = self._name
            raise
        self._taken += len(data)
        return data

    @contextmanager
    def unpacked(self) -> Iterator[IO[bytes]]:
        """What is in it. The block gets EOFError, gzip.BadGzipFile or zlib.error turned into Damaged."""
        # Both have what is asked of an IO[bytes] here.
        stream = cast("IO[bytes]", gzip.GzipFile(fileobj=cast("IO[bytes]", self)) if self._gzipped else self)
        try:
            yield stream
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise Damaged from error
        if self._gzipped and not self._taken:
            raise Damaged  # GzipFile takes a file of no bytes for an empty one

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Damaged(Exception):  # noqa: N818  the callers say where
    """The gzip data is damaged or cut off."""


def filled(stream: IO[bytes], size: int) -> bytes:
    """So many bytes, less only at the end: a pipe gives what it has."""
    pieces = []
    while size and (piece := stream.read(size)):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)
