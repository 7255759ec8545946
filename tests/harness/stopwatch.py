"""A clock that stands still while the machine does.

What a test measures is vsyncd. A machine that is paused, or has no processor for us for seconds, is no fault of it.
It is for what may take no longer than something: what must take as long is measured with time.monotonic().
"""

import threading
import time
from functools import cache
from typing import Final

# Seconds.
_TICK: Final = 0.02
_MOST: Final = 0.1


class _Clock:
    """The monotonic clock, without what passes between two ticks of a thread beyond `_MOST`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen = time.monotonic()
        self._passed = 0.0
        threading.Thread(target=self._run, name="stopwatch", daemon=True).start()

    def now(self) -> float:
        """Seconds since some moment."""
        with self._lock:
            seen = time.monotonic()
            self._passed += min(seen - self._seen, _MOST)
            self._seen = seen
            return self._passed

    def _run(self) -> None:
        while True:
            time.sleep(_TICK)
            self.now()


def now() -> float:
    """Seconds since some moment, in which the machine ran. Instead of time.monotonic(), for an upper bound."""
    return _clock().now()


@cache
def _clock() -> _Clock:
    return _Clock()
