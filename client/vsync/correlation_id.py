"""The correlation id, which identifies the calls, log lines and audit entries of one business operation."""

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_current: ContextVar[str | None] = ContextVar("vsync_correlation_id", default=None)
# A UUID with or without hyphens, or a ULID. Free text could carry personal data into logs, traces and the audit trail.
_FORM = re.compile(
    r"[0-9a-f]{32}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-7][0-9a-hjkmnp-tv-z]{25}", re.IGNORECASE
)


def is_correlation_id(text: str) -> bool:
    """Returns whether vsyncd accepts the text: a UUID, a ULID or 32 hexadecimal digits."""
    return text.isascii() and _FORM.fullmatch(text) is not None


def check_correlation_id(correlation_id: str) -> str:
    """Returns the id. Raises ValueError if vsyncd would replace it."""
    if not is_correlation_id(correlation_id):
        raise ValueError("a correlation id must be a UUID, a ULID or 32 hexadecimal digits")
    return correlation_id


def current_correlation_id() -> str | None:
    """Returns the correlation id of the enclosing `correlation` block, or None."""
    return _current.get()


@contextmanager
def correlation(correlation_id: str | None = None) -> Iterator[str]:
    """Sets the correlation id of every call in the block, also in tasks that the block starts. Yields the id.

    The default is the id of the enclosing block, or else a new UUID. Raises ValueError for an id that vsyncd does not
    accept.

        with vsync.correlation() as correlation_id:
            await client.cids.CreateCid(...)
    """
    chosen = check_correlation_id(correlation_id or _current.get() or str(uuid.uuid4()))
    token = _current.set(chosen)
    try:
        yield chosen
    finally:
        _current.reset(token)
