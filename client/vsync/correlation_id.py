"""The correlation id: ties the calls, log lines and audit entries of one business operation together."""

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_current: ContextVar[str | None] = ContextVar("vsync_correlation_id", default=None)
_FORM = re.compile(r"[!-~]{1,128}")


def check_correlation_id(correlation_id: str) -> str:
    """Returns the id. Raises ValueError unless it is 1 to 128 visible ASCII characters, as vsyncd takes them."""
    if not _FORM.fullmatch(correlation_id):
        raise ValueError("a correlation id is 1 to 128 visible ASCII characters")
    return correlation_id


def current_correlation_id() -> str | None:
    """The correlation id of the enclosing `correlation` block, if there is one."""
    return _current.get()


@contextmanager
def correlation(correlation_id: str | None = None) -> Iterator[str]:
    """Every call made inside, in this thread or task and those it starts, carries this correlation id.

    Without one, the enclosing block's goes on, else a new UUID is made. Gives the id. Raises ValueError for an id that
    vsyncd would not take.

        with vsync.correlation() as correlation_id:
            await client.cids.CreateCid(...)
    """
    chosen = check_correlation_id(correlation_id or _current.get() or str(uuid.uuid4()))
    token = _current.set(chosen)
    try:
        yield chosen
    finally:
        _current.reset(token)
