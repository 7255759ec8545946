"""What a kind of dependency has to bring to be checked."""

from typing import Protocol

from vsyncd.health.records import Details, Finding, Kind


class DependencyChecker(Protocol):
    """Checks one dependency. When, how often and for how long is the business of who calls it (dependency.py)."""

    @property
    def name(self) -> str:
        """Its name in reports and filters, e.g. postgresql-primary."""
        ...

    @property
    def kind(self) -> Kind:
        """What it is."""
        ...

    @property
    def is_critical(self) -> bool:
        """Whether the service can do nothing without it."""
        ...

    async def check(self) -> Finding:
        """Ask it. A failure is a finding, not an error. When cancelled it ends soon, whatever it waits for."""
        ...

    def details(self) -> Details:
        """What is known of it, from memory."""
        ...

    async def close(self) -> None:
        """Let go of what the checks keep open."""
        ...
