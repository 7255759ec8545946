"""Standard streams whose failures do not end a command. Used by the vsync and the vsyncd command.

A command prints through `sys.stdout` and `sys.stderr` as usual. No write fails, whatever happens to them: an encoding
that lacks a character, a closed descriptor, a reader that has exited, a full disk. `StandardStreams.finish` then
reports that output is missing.

Commands that write records to standard output use `vsync.atomic_files`, whose writes do fail, since an export without a
reader is useless.
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
"""The exit code of a command whose reader closed standard output: 128 + SIGPIPE, as in a shell."""

# A shell that completes a command line sets them. click then writes bytes, which only the original streams accept.
_COMPLETION = ("_VSYNC_COMPLETE", "_VSYNCD_COMPLETE")
_FALLBACK = "vsync.fallback"
_ASCII = {
    "✓": "ok",
    "●": "*",
    "…": "...",
    # The frames of a spinner.
    **dict.fromkeys(map(chr, range(0x2800, 0x2900)), "."),
}


def _fallback(error: UnicodeError) -> tuple[str | bytes, int]:
    """A codec error handler: returns a readable ASCII form of a symbol, or else an escape sequence.

    A byte of a file name or argument that the locale cannot decode (PEP 383) is written as that byte, so that a printed
    command can be copied.
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


class _TolerantFile(OutputFile):
    """Discards data that cannot be written, and stores the first error."""

    error: OSError | None = None

    def write(self, data: "bytes | bytearray | memoryview", /) -> int:  # type: ignore[override]  # any buffer in typeshed
        """Never raises OSError. Later writes are tried too, since a full disk may have space again."""
        try:
            return super().write(data)
        except OSError as error:
            self.error = self.error or error
            return len(data)


class _TolerantText(io.TextIOWrapper):
    """A text stream over a _TolerantFile."""

    # click would write UTF-8 to the buffer of a stream whose encoding is ASCII.
    buffer = None  # type: ignore[assignment]

    def __init__(self, replaced: TextIO | None, descriptor: int, *, line_buffering: bool) -> None:
        self.file = _TolerantFile(
            descriptor, name=f"standard {'output' if descriptor == 1 else 'error'}", closefd=False
        )
        super().__init__(
            buffered(self.file),
            encoding=replaced.encoding if replaced else "utf-8",
            errors=_FALLBACK,
            line_buffering=line_buffering,
        )


class StandardStreams:
    """The standard streams of a process that runs a single command."""

    def __init__(self) -> None:
        """Replaces sys.stdout and sys.stderr, and sys.stdin if it is closed.

        Opens the null device with the descriptor of a closed stream. Otherwise the next socket or file would get that
        descriptor and would receive the output of child processes. Using a closed stream still fails, except standard
        error.
        """
        codecs.register_error(_FALLBACK, _fallback)
        if sys.stdin is None:
            sys.stdin = open(_opened(os.O_WRONLY), closefd=False)  # noqa: SIM115 - it must remain open
        self.out = _replaced(sys.stdout, os.O_RDONLY)
        sys.stdout = self.out
        sys.stderr = _replaced(sys.stderr, os.O_WRONLY, line_buffering=True)

    def finish(self, code: int, *, prefix: str) -> int:
        """Reports output that could not be written. Returns the exit code of the process for the command's own `code`.

        A reader that closed its end of a pipe is not an error.
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
    """Runs the process's command. Returns the exit code. `prefix` begins the line that reports missing output."""
    if any(name in os.environ for name in _COMPLETION):
        return command()
    streams = StandardStreams()
    return streams.finish(command(), prefix=prefix)


def describe_system_error(error: OSError | UnicodeError) -> str:
    """Returns one line: the file, if known, and the reason."""
    if isinstance(error, UnicodeError):
        # Printing never raises it, so the text comes from an argument or a variable.
        return f"an argument or a variable is not valid text in this locale ({sys.getfilesystemencoding()})"
    reason = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {reason}" if error.filename else reason


def _replaced(stream: TextIO | None, mode: int, *, line_buffering: bool = False) -> _TolerantText:
    if stream is None:
        return _TolerantText(None, _opened(mode), line_buffering=line_buffering)
    with contextlib.suppress(OSError):
        stream.flush()
    return _TolerantText(stream, stream.fileno(), line_buffering=line_buffering or bool(stream.line_buffering))


def _opened(mode: int) -> int:
    """Opens the null device with the lowest free descriptor."""
    descriptor = os.open(os.devnull, mode)
    os.set_inheritable(descriptor, True)
    return descriptor
