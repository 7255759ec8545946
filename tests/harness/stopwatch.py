"""A clock that stops while the machine is paused.

Tests measure vsyncd, so a machine that is paused or has no free processor for seconds must not count. Use this clock
for upper bounds only, and time.monotonic() for lower bounds.
"""

import threading
import time
from functools import cache
from typing import Final

_TICK_S: Final = 0.02
_MAX_STEP_S: Final = 0.1


class _Clock:
    """The monotonic clock, with at most `_MAX_STEP_S` between two ticks of a thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen = time.monotonic()
        self._passed = 0.0
        threading.Thread(target=self._run, name="stopwatch", daemon=True).start()

    def now(self) -> float:
        """Returns the seconds since an arbitrary time."""
        with self._lock:
            seen = time.monotonic()
            self._passed += min(seen - self._seen, _MAX_STEP_S)
            self._seen = seen
            return self._passed

    def _run(self) -> None:
        while True:
            time.sleep(_TICK_S)
            self.now()


def now() -> float:
    """Returns the seconds since an arbitrary time, without pauses of the machine."""
    return _clock().now()


@cache
def _clock() -> _Clock:
    return _Clock()
