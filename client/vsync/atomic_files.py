"""Output files that appear under their name only when they are complete and on the disk."""

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
"""The name of standard input and standard output."""
_BUFFER_BYTES = 1 << 20


class OutputFile(io.FileIO):
    """A file, pipe or device open for writing.

    Its errors contain its name. A write to a full non-blocking pipe waits until the pipe accepts data.
    """

    def __init__(self, file: str | int, *, name: str, closefd: bool = True) -> None:
        super().__init__(file, "wb", closefd=closefd)
        self._label = name

    def write(self, data: "bytes | bytearray | memoryview", /) -> int:  # type: ignore[override]  # any buffer in typeshed
        """Writes at least one byte of the data. Returns the number of bytes. Raises OSError."""
        try:
            while (written := super().write(data)) is None:
                select.select([], [self], [])
        except OSError as error:
            error.filename = self._label
            raise
        return written


def is_special(path: Path) -> bool:
    """Returns whether the path is a pipe or a device. Such a file is written in place and never replaced."""
    return path.exists() and not path.is_file()


class AtomicFile:
    """A file that is written under a temporary name and renamed when it is complete.

    Only its owner can read it, because it may hold personal data. "-" is standard output. Standard output, pipes and
    devices are written in place.
    """

    def __init__(self, name: str) -> None:
        """Creates nothing on the disk yet, so that `discard` can be registered before `open`."""
        self._name = name
        self.stream: IO[bytes] = io.BytesIO()
        """The stream to write to, after `open`."""
        # A symbolic link remains a link: its target is replaced.
        self.path = Path(name).resolve()
        self.temporary: Path | None = None
        """The temporary file; None if the file is written in place."""
        if name != STANDARD and not is_special(Path(name)):
            self.temporary = self.path.with_name(f".{self.path.name}.{token_hex(8)}.part")

    def open(self) -> None:
        """Opens the stream. Raises OSError."""
        if self._name == STANDARD:
            sys.stdout.flush()
            file = OutputFile(sys.stdout.fileno(), name="standard output", closefd=False)
        elif self.temporary is None:
            file = OutputFile(self._name, name=self._name)
        else:
            try:
                descriptor = os.open(self.temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            except OSError as error:
                # Not the temporary name, which the user does not know.
                is_missing = isinstance(error, FileNotFoundError)
                error.filename = str(Path(self._name).parent) if is_missing else self._name
                raise
            file = OutputFile(descriptor, name=self._name)
        self.stream = buffered(file)

    def finish(self) -> None:
        """Writes everything to the disk and closes the stream. Raises OSError."""
        self.stream.flush()
        if self.temporary is not None:
            try:
                os.fsync(self.stream.fileno())
            except OSError as error:
                error.filename = self._name
                raise
        self.stream.close()

    def rename(self) -> None:
        """Renames the finished temporary file to its final name. Raises OSError."""
        if self.temporary is not None:
            self.temporary.replace(self.path)

    def discard(self) -> None:
        """Closes the stream and removes the temporary file, if it was not renamed."""
        # Data that could not be written is still in the buffer, so closing fails again.
        with suppress(OSError):
            self.stream.close()
        if self.temporary is not None:
            self.temporary.unlink(missing_ok=True)


def buffered(file: OutputFile) -> IO[bytes]:
    """Returns the file with a write buffer."""
    # typeshed's protocol of a raw stream has attributes that its own FileIO lacks.
    return io.BufferedWriter(file, _BUFFER_BYTES)  # type: ignore[type-var]


@contextmanager
def atomic_files(names: Sequence[str], *, gzipped: bool = False) -> Iterator[list[IO[bytes]]]:
    """Opens files that appear under their names only if the block ends without an error (see AtomicFile).

    No file is renamed before all of them are on the disk. Raises OSError.
    """
    with ExitStack() as discards:
        files = []
        for name in names:
            file = AtomicFile(name)
            discards.callback(file.discard)
            file.open()
            files.append(file)
        with ExitStack() as compressors:
            yield [
                compressors.enter_context(_compressed(file.stream)) if gzipped and file.temporary else file.stream
                for file in files
            ]
        for file in files:
            file.finish()
        for file in files:
            file.rename()


@contextmanager
def _compressed(stream: IO[bytes]) -> Iterator[IO[bytes]]:
    # Without a time and a name, so that equal content yields equal files.
    with gzip.GzipFile(filename="", mode="wb", fileobj=stream, compresslevel=6, mtime=0) as compressor:
        yield cast("IO[bytes]", compressor)
