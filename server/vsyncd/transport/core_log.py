"""Turns what gRPC core writes to standard error into log events.

gRPC core writes its own log lines to file descriptor 2 and offers Python no other destination. While `core_log` is
active, descriptor 2 is a pipe that a thread reads; Python's own standard error (the log, tracebacks, faulthandler)
continues to be the original destination.

The thread dies with the process: the message of a library that aborts the process may be lost. faulthandler still
writes the stack of every thread to the original destination.
"""

import faulthandler
import logging
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from vsyncd.observability.logs import Sample, logger

_STDERR: Final = 2
_MAX_TEXT: Final = 500  # characters of a message of gRPC core that are logged
_STOP_TIMEOUT_S: Final = 2.0

# As absl writes it: I1129 12:54:59.055771   15060 ssl_transport_security.cc:2563] Handshake failed with error ...
_parse_line = re.compile(r"([IWEF])\d{4} [\d:.]+ +\d+ ([^\s:\]]+):(\d+)\] (.*)").fullmatch
_parse_handshake = re.compile(r"Handshake failed with error (?:.*OPENSSL_internal:)?(\w+)(?:: (.*))?").fullmatch
# The detail of a handshake that failed before a certificate was verified.
_NOTHING_VERIFIED: Final = "Invalid certificate verification context"
_PEER = re.compile(r"\bipv[46]:\S+")
_LEVELS: Final = {"I": logging.INFO, "W": logging.WARNING, "E": logging.ERROR, "F": logging.CRITICAL}

_log = logger(__name__)


class CoreLog:
    """Logs the lines of gRPC core, up to `max_per_second` of each kind; `left_out` counts the others."""

    def __init__(self, *, max_per_second: int) -> None:
        self._sample = Sample(max_per_second)

    def log(self, line: str) -> None:
        """Logs one line. A line that gRPC core did not write is logged unchanged and without a limit."""
        parsed = _parse_line(line)
        if parsed is None:
            _log.warning("text on standard error", text=line)
            return
        severity, file, number, message = parsed.groups()
        if handshake := _parse_handshake(message):
            cause, detail = handshake.groups()
            fields = {"detail": detail} if detail and detail != _NOTHING_VERIFIED else {}
            self._emit(logging.INFO, "TLS handshake failed", cause, cause=cause, **fields)
        else:
            # Addresses of peers are left out.
            text = _PEER.sub("(peer)", message)[:_MAX_TEXT]
            source = f"{file}:{number}"
            self._emit(_LEVELS[severity], "gRPC core", source, source=source, text=text)

    def _emit(self, level: int, event: str, kind: str, **fields: Any) -> None:
        left_out = self._sample.take((event, kind))
        if left_out:
            fields["left_out"] = left_out
        if left_out is not None:
            _log.log(level, event, **fields)


@contextmanager
def core_log(*, max_per_second: int) -> Iterator[None]:
    """Logs what is written to file descriptor 2 until the context ends.

    Python's warnings and errors that no code can handle become log events too.
    """
    if sys.stderr is None:  # the process was started without one
        yield
        return
    original = os.dup(_STDERR)
    reader, writer = os.pipe()
    # A full pipe drops lines. It must not block gRPC core, which may hold the lock that the reading thread waits for.
    os.set_blocking(writer, False)
    log = CoreLog(max_per_second=max_per_second)
    thread = threading.Thread(target=_read, args=(reader, log), name="gRPC core's log", daemon=True)
    thread.start()
    with _python_stderr(original), _hooks():
        os.dup2(writer, _STDERR)
        os.close(writer)
        try:
            yield
        finally:
            os.dup2(original, _STDERR)
            # A child process that has inherited the pipe keeps it open.
            thread.join(_STOP_TIMEOUT_S)


def _read(reader: int, log: CoreLog) -> None:
    """Logs the lines from the pipe until its writers have closed it."""
    with open(reader, "rb") as lines:
        for line in lines:
            if text := line.decode("utf-8", "backslashreplace").strip():
                log.log(text)


@contextmanager
def _python_stderr(descriptor: int) -> Iterator[None]:
    """Python's standard error, and faulthandler's, is this descriptor until the context ends.

    It stays open: log handlers refer to it.
    """
    before, was_enabled = sys.stderr, faulthandler.is_enabled()
    before.flush()
    stream = os.fdopen(descriptor, "w", buffering=1, encoding=before.encoding, errors="backslashreplace")
    sys.stderr = stream
    faulthandler.enable(stream)
    try:
        yield
    finally:
        faulthandler.disable()
        if was_enabled:
            faulthandler.enable(before)
        sys.stderr = before


@contextmanager
def _hooks() -> Iterator[None]:
    """Python's own hooks write the text of an error, which may quote values."""
    before = sys.unraisablehook, threading.excepthook
    sys.unraisablehook = _log_unraisable
    threading.excepthook = _log_thread_error
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        sys.unraisablehook, threading.excepthook = before


def _log_unraisable(unraisable: Any) -> None:
    _log.error("unhandled error", exc_info=unraisable.exc_value)


def _log_thread_error(args: threading.ExceptHookArgs) -> None:
    thread = args.thread.name if args.thread else ""
    _log.error("unhandled error", exc_info=args.exc_value, thread=thread)
