"""A clock for ages that also advances while the machine is suspended, where the platform has one.

With CLOCK_MONOTONIC, a virtual machine that was suspended for an hour would still consider its cache current.
"""

import time
from typing import Final

_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now() -> float:
    """Returns seconds since a fixed point in time."""
    return time.clock_gettime(_CLOCK)
