"""Captures the log of vsyncd during a test."""

import contextlib
import io
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import structlog
from vsyncd.core.context import log_fields
from vsyncd.observability import logs


class LogLines:
    """The captured log."""

    def __init__(self, stream: io.StringIO) -> None:
        self.stream = stream

    @property
    def text(self) -> str:
        """The complete text."""
        return self.stream.getvalue()

    @property
    def events(self) -> list[dict[str, Any]]:
        """The lines, each parsed as a JSON object."""
        return [json.loads(line) for line in self.text.splitlines()]

    def named(self, event: str) -> list[dict[str, Any]]:
        """Returns the lines of this event."""
        return [line for line in self.events if line["event"] == event]


@contextlib.contextmanager
def captured_logs(*, level: str = "DEBUG", form: str = "json", stream: io.StringIO | None = None) -> Iterator[LogLines]:
    """Captures the log of this process, configured as in the service, until the end of the block."""
    lines = LogLines(stream or io.StringIO())
    root = logging.getLogger()
    handlers, threshold, stderr = list(root.handlers), root.level, sys.stderr
    structure = structlog.get_config()
    psycopg_levels = {name: logging.getLogger(name).level for name in ("psycopg", "psycopg.pool")}
    sys.stderr = lines.stream
    try:
        logs.configure(level=level, form=form, context=log_fields)
        yield lines
    finally:
        sys.stderr = stderr
        structlog.configure(**structure)
        root.handlers, root.level = handlers, threshold
        for name, psycopg_level in psycopg_levels.items():
            logging.getLogger(name).setLevel(psycopg_level)
