"""Standard streams whose failures do not end a command. For the commands of both packages; needs no extra.

A command prints through `sys.stdout` and `sys.stderr` as usual. Whatever happens to them (an encoding that lacks a
character, a closed descriptor, a reader that is gone, a full disk) no write fails. `Streams.finish` reports afterwards
that output is missing.

Commands that write records to standard output use `vsync.atomic_files` instead, whose writes fail: nobody would receive
the export.
"""

import codecs
import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable
from typing import TextIO

from vsync.atomic_files import OutputFile, buffered

FAILED = 1
READER_GONE = 141
"""The exit code of a command whose records nobody reads any more: 128 + SIGPIPE, as a shell reports it."""

_FALLBACK = "vsync.fallback"
_ASCII = {
    "✓": "ok",
    "●": "*",
    "…": "...",
    # The frames of a spinner.
    **dict.fromkeys(map(chr, range(0x2800, 0x2900)), "."),
}


def _fallback(error: UnicodeError) -> tuple[str | bytes, int]:
    """A codec error handler: a readable ASCII form of a symbol, or else an escape sequence.

    A byte of a file name or argument that the locale could not decode (PEP 383) becomes that byte again, so that a
    command that is shown can be copied.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    symbol = error.object[error.start]
    if symbol in _ASCII:
        return _ASCII[symbol], error.start + 1
    if "\udc80" <= symbol <= "\udcff":
        return symbol.encode(errors="surrogateescape"), error.start + 1
    one = UnicodeEncodeError(error.encoding, error.object, error.start, error.start + 1, error.reason)
    return codecs.backslashreplace_errors(one)


class _Tolerant(OutputFile):
    """Discards what cannot be written, and keeps the first error."""

    error: OSError | None = None

    def write(self, data: "bytes | bytearray | memoryview", /) -> int:  # type: ignore[override]  # any buffer in typeshed
        """Never raises OSError. Tries again each time: a full disk may have room later."""
        try:
            return super().write(data)
        except OSError as error:
            self.error = self.error or error
            return len(data)


class _Text(io.TextIOWrapper):
    """Text over a _Tolerant file."""

    # click would write UTF-8 to the buffer of a stream whose encoding is ASCII.
    buffer = None  # type: ignore[assignment]

    def __init__(self, replaced: TextIO | None, descriptor: int, *, line_buffering: bool) -> None:
        self.file = _Tolerant(descriptor, name=f"standard {'output' if descriptor == 1 else 'error'}", closefd=False)
        super().__init__(
            buffered(self.file),
            encoding=replaced.encoding if replaced else "utf-8",
            errors=_FALLBACK,
            line_buffering=line_buffering,
        )


class Streams:
    """The standard streams of a process that runs one command."""

    def __init__(self) -> None:
        """Replaces sys.stdin if it is closed, and sys.stdout and sys.stderr in any case.

        The descriptor of a closed stream is opened: the next socket or file would get it, and with it the output of
        every child process. Reading from it or writing to it still fails, except to standard error.
        """
        codecs.register_error(_FALLBACK, _fallback)
        if sys.stdin is None:
            sys.stdin = open(_opened(os.O_WRONLY), closefd=False)  # noqa: SIM115 - it stays open; a descriptor
        self.out = _replaced(sys.stdout, os.O_RDONLY)
        sys.stdout = self.out
        sys.stderr = _replaced(sys.stderr, os.O_WRONLY, line_buffering=True)

    def finish(self, code: int, *, prefix: str) -> int:
        """Reports output that could not be written; returns the exit code of the command, whose own code was `code`.

        A reader that closed its end of a pipe has what it wanted: that changes nothing.
        """
        self.out.flush()
        error = self.out.file.error
        if error is not None and error.errno != errno.EPIPE:
            outcome = "the command succeeded, but its output is incomplete" if code == 0 else "the output is incomplete"
            sys.stderr.write(f"{prefix}{outcome}: {error.filename}: {error.strerror}\n")
            code = code or FAILED
        sys.stderr.flush()
        return code


def run_process(command: Callable[[], int], *, prefix: str) -> int:
    """Runs the command that a process exists for; returns the exit code. `prefix` begins each line about an error."""
    streams = Streams()
    return streams.finish(command(), prefix=prefix)


def describe_system_error(error: OSError | UnicodeError) -> str:
    """One line: the file, if known, and the reason."""
    if isinstance(error, UnicodeError):
        # What is printed never raises it: the text was given to the command.
        return f"an argument or a variable is not valid text in this locale ({sys.getfilesystemencoding()})"
    reason = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {reason}" if error.filename else reason


def _replaced(stream: TextIO | None, mode: int, *, line_buffering: bool = False) -> _Text:
    if stream is None:
        return _Text(None, _opened(mode), line_buffering=line_buffering)
    with contextlib.suppress(OSError):
        stream.flush()
    return _Text(stream, stream.fileno(), line_buffering=line_buffering or bool(stream.line_buffering))


def _opened(mode: int) -> int:
    """The null device, opened with the lowest free descriptor."""
    descriptor = os.open(os.devnull, mode)
    os.set_inheritable(descriptor, True)
    return descriptor
