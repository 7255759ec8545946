"""Reports the access control of this process: expired certificates, invalid files, and insecure settings."""

from collections.abc import Callable, Sequence

from vsyncd.health.records import Details, Finding, Kind, Status


class AccessChecker:
    """DEGRADED while there are warnings, and otherwise HEALTHY with the summary. Both come from memory."""

    name = "access-control"
    kind = Kind.OTHER
    is_critical = False

    def __init__(self, warnings: Callable[[], Sequence[str]], summary: Callable[[], str]) -> None:
        self._warnings = warnings
        self._summary = summary

    async def check(self) -> Finding:
        """See DependencyChecker."""
        if warnings := self._warnings():
            return Finding(status=Status.DEGRADED, message="; ".join(warnings))
        return Finding(status=Status.HEALTHY, message=self._summary())

    def details(self) -> Details:
        """Returns no details."""
        return Details()

    async def close(self) -> None:
        """Does nothing."""
