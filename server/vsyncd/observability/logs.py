"""Structured logs: one event per line, as JSON or in a form for a terminal.

vsyncd logs neither personal data (keys, tax ids, accounts) nor secrets. As a second line of defence, the values of
fields with such names are masked.
"""

import logging
import sys
import time
import traceback
from collections.abc import Callable, Hashable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Final

import structlog

PERSONAL_FIELDS: Final = frozenset({"key", "key_value", "tax_id", "account_number", "branch", "owner_name", "payload"})
SECRET_FIELDS: Final = frozenset({"password", "dsn", "conninfo", "url", "token", "secret"})
MASK: Final = "***"

_GRPC: Final = "grpc._cython.cygrpc"
_WINDOW_S: Final = 1.0


def mask(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Masks the values of personal and secret fields."""
    for name in event.keys() & (PERSONAL_FIELDS | SECRET_FIELDS):
        event[name] = MASK
    return event


def describe_error(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replaces an error's traceback by its type and its location.

    The text of an error is omitted, because PostgreSQL and Python quote values in it. asyncio's messages contain it
    from their second line on.
    """
    given = event.pop("exc_info", None)
    error = given if isinstance(given, BaseException) else (given if isinstance(given, tuple) else sys.exc_info())[1]
    if given and error is not None:
        frames = traceback.extract_tb(error.__traceback__)
        event["event"] = str(event["event"]).partition("\n")[0]
        event["error"] = type(error).__qualname__
        event["where"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames[-8:]]
    return event


def configure(*, level: str, form: str, context: Callable[[], Mapping[str, str]] = dict) -> None:
    """Sends every log of the process, including the libraries', to standard error.

    `form` is json, console, or auto: console if standard error is a terminal, or else json. `context` returns the
    fields that each event has in addition (core.context.log_fields).
    """
    is_terminal = sys.stderr.isatty()

    def add_context(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        for name, value in context().items():
            event.setdefault(name, value)
        return event

    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        add_context,
        describe_error,
        mask,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(sort_keys=False)
        if form == "json" or (form == "auto" and not is_terminal)
        else structlog.dev.ConsoleRenderer(colors=is_terminal, timestamp_key="time")
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # psycopg's pool warns of every failed connection attempt, with the server's address. vsyncd logs each outage once.
    for name in ("psycopg", "psycopg.pool"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger(_GRPC).addFilter(_is_no_late_answer)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def _is_no_late_answer(record: logging.LogRecord) -> bool:
    """Returns whether gRPC logs something else than that a call has ended before its answer.

    gRPC logs this as an error if it notices only on sending that the client's deadline has passed. Clients cause it.
    """
    return not (record.exc_info and type(record.exc_info[1]).__name__ == "ExecuteBatchError")


def logger(name: str) -> structlog.typing.FilteringBoundLogger:
    log: structlog.typing.FilteringBoundLogger = structlog.get_logger(name)
    return log


@dataclass(slots=True)
class _Window:
    begin: float
    seen: int = 0


class Sample:
    """Accepts the first `max_per_second` events of each kind in a second, and counts the others.

    There must be few kinds, not chosen by callers: each kind is stored forever.
    """

    def __init__(self, max_per_second: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_per_second = max_per_second
        self._clock = clock
        self._windows: dict[Hashable, _Window] = {}

    def take(self, kind: Hashable) -> int | None:
        """Returns None if this event must be omitted, or else how many were omitted since the last accepted one."""
        now = self._clock()
        window = self._windows.setdefault(kind, _Window(now))
        left_out = 0
        if now - window.begin >= _WINDOW_S:
            left_out = max(0, window.seen - self._max_per_second)
            window.begin, window.seen = now, 0
        window.seen += 1
        return left_out if window.seen <= self._max_per_second else None
