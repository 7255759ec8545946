"""Files that appear whole: what is written stands beside its name until it is on the disk."""

import gzip
import io
import os
import select
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import IO, cast

STANDARD = "-"
"""The name of standard input or standard output."""

_WRITE_BUFFER = 1 << 20


class OutputFile(io.FileIO):
    """A file, pipe or device that is written to. Its errors name it, and a full non-blocking pipe is waited for."""

    def __init__(self, file: str | int, *, name: str, closefd: bool = True) -> None:
        super().__init__(file, "wb", closefd=closefd)
        self._label = name

    def write(self, data: "bytes | bytearray | memoryview", /) -> int:  # type: ignore[override]  # any buffer in typeshed
        """Writes at least a part of it. Raises OSError."""
        try:
            while (written := super().write(data)) is None:
                select.select([], [self], [])
        except OSError as error:
            error.filename = self._label
            raise
        return written


def is_special(path: Path) -> bool:
    """Whether a pipe, a device or the like stands there, which is written to as it is, and never replaced."""
    return path.exists() and not path.is_file()


class Part:
    """A file that is being written. Only its owner can read it: it holds personal data.

    "-" is stdout; that, a pipe or a device is written to as it is.
    """

    def __init__(self, name: str) -> None:
        """Leaves the disk as it is: what is to be discarded whatever happens is known before it is there."""
        self._name = name
        self.stream: IO[bytes] = io.BytesIO()
        """What is written goes there, once it is open."""
        # Through a symbolic link, so that it stays one.
        self.path = Path(name).resolve()
        self.temporary: Path | None = None
        """Where it stands until it is placed."""
        if name != STANDARD and not is_special(Path(name)):
            self.temporary = self.path.with_name(f".{self.path.name}.{token_hex(8)}.part")

    def open(self) -> None:
        """Begins to write it. Raises OSError."""
        if self._name == STANDARD:
            sys.stdout.flush()
            file = OutputFile(sys.stdout.fileno(), name="standard output", closefd=False)
        elif self.temporary is None:
            file = OutputFile(self._name, name=self._name)
        else:
            descriptor = os.open(self.temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            file = OutputFile(descriptor, name=self._name)
        self.stream = buffered(file)

    def finish(self) -> None:
        """Brings all of it to the disk. Raises OSError."""
        self.stream.flush()
        if self.temporary is not None:
            try:
                os.fsync(self.stream.fileno())
            except OSError as error:
                error.filename = self._name
                raise
        self.stream.close()

    def place(self) -> None:
        """Gives it its name, once it is finished. Raises OSError."""
        if self.temporary is not None:
            self.temporary.replace(self.path)

    def discard(self) -> None:
        """Clears it away, unless it was placed."""
        # What could not be written is still in the buffer, and would fail once more.
        with suppress(OSError):
            self.stream.close()
        if self.temporary is not None:
            self.temporary.unlink(missing_ok=True)


def buffered(file: OutputFile) -> IO[bytes]:
    """With a buffer."""
    # typeshed's protocol of a raw stream has attributes that its own FileIO lacks.
    return io.BufferedWriter(file, _WRITE_BUFFER)  # type: ignore[type-var]


@contextmanager
def whole_files(names: Sequence[str], *, gzipped: bool = False) -> Iterator[list[IO[bytes]]]:
    """Files that appear under their names only when the block ends well, so that nobody takes a part for the whole.

    None appears before all of them are on the disk. See Part. Raises OSError.
    """
    with ExitStack() as parts_left:
        parts = []
        for name in names:
            part = Part(name)
            parts_left.callback(part.discard)
            part.open()
            parts.append(part)
        with ExitStack() as compressors:
            yield [
                compressors.enter_context(_compressed(part.stream)) if gzipped and part.temporary else part.stream
                for part in parts
            ]
        for part in parts:
            part.finish()
        for part in parts:
            part.place()


@contextmanager
def whole_file(name: str, *, gzipped: bool) -> Iterator[IO[bytes]]:
    """One such file. Raises OSError."""
    with whole_files([name], gzipped=gzipped) as (stream,):
        yield stream


@contextmanager
def _compressed(stream: IO[bytes]) -> Iterator[IO[bytes]]:
    # No time and no name inside: equal content makes equal files.
    with gzip.GzipFile(filename="", mode="wb", fileobj=stream, compresslevel=6, mtime=0) as compressor:
        yield cast("IO[bytes]", compressor)
