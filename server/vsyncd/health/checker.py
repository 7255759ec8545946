"""The interface of a dependency's check."""

from typing import Protocol

from vsyncd.health.records import Details, Finding, Kind


class DependencyChecker(Protocol):
    """Checks one dependency. Dependency (dependency.py) decides when to check, and limits the time."""

    @property
    def name(self) -> str:
        """The dependency's name in reports and filters, for example postgresql-primary."""
        ...

    @property
    def kind(self) -> Kind:
        """The kind of dependency."""
        ...

    @property
    def is_critical(self) -> bool:
        """Whether the service cannot work without it."""
        ...

    async def check(self) -> Finding:
        """Checks the dependency. Returns a failure as a finding. A cancelled check ends soon."""
        ...

    def details(self) -> Details:
        """Returns the address, the version and the pool, from memory."""
        ...

    async def close(self) -> None:
        """Closes the connections of the checks."""
        ...
