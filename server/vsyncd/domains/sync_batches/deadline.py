"""The time that a call may spend on steps, so that it can still answer before its deadline."""

from typing import Final

from vsyncd.core.context import RequestContext

# The fraction of a call's time that is reserved for its last transaction and its response.
_RESERVED_FRACTION: Final = 0.2


class StepDeadline:
    """Tells when a call must stop working in steps. A call without a deadline never has to."""

    def __init__(self, call: RequestContext) -> None:
        self._call = call
        self._reserved_s = (call.remaining() or 0.0) * _RESERVED_FRACTION

    def has_passed(self) -> bool:
        """Whether the call must respond now."""
        remaining = self._call.remaining()
        return remaining is not None and remaining < self._reserved_s
