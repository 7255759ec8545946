"""The correlation id, which identifies the calls, log lines and audit entries of one business operation."""

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_current: ContextVar[str | None] = ContextVar("vsync_correlation_id", default=None)
_FORM = re.compile(r"[!-~]{1,128}")


def check_correlation_id(correlation_id: str) -> str:
    """Returns the id. Raises ValueError unless it has 1 to 128 visible ASCII characters, as vsyncd requires."""
    if not _FORM.fullmatch(correlation_id):
        raise ValueError("a correlation id must have 1 to 128 visible ASCII characters")
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
