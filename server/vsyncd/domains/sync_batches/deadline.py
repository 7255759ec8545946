"""When to stop working, so that what was done can be answered."""

from typing import Final

from vsyncd.core.context import RequestContext

# The part of a call's time that is left for its last transaction and its answer.
_RESERVE: Final = 0.2


class WorkDeadline:
    """How much of a call's time is left."""

    def __init__(self, call: RequestContext) -> None:
        self._call = call
        self._at_first = call.remaining()

    def is_short(self) -> bool:
        """Whether it is time to answer with what there is; never, for a call without a deadline."""
        remaining = self._call.remaining()
        return remaining is not None and self._at_first is not None and remaining < _RESERVE * self._at_first
