"""The clock that says how old something is: one that goes on while the machine sleeps, where there is one.

A virtual machine that was suspended for an hour would otherwise take what was confirmed before for confirmed just now.
"""

import time
from typing import Final

_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now() -> float:
    """Seconds since some time that stays the same."""
    return time.clock_gettime(_CLOCK)
