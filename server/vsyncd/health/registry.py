"""The registry of all dependencies, which checks them in parallel."""

import asyncio
from collections.abc import Collection, Sequence

from vsyncd.health.broadcast import Broadcast
from vsyncd.health.checker import DependencyChecker
from vsyncd.health.dependency import Dependency
from vsyncd.health.records import Details, Kind, Observation, Status


class DependencyRegistry:
    """The dependencies of this process.

    `timeout` limits the seconds of a check. `max_age` is the number of seconds for which its result is reused.
    """

    def __init__(self, checkers: Sequence[DependencyChecker], *, timeout: float, max_age: float) -> None:
        self._dependencies = {checker.name: Dependency(checker, timeout=timeout) for checker in checkers}
        self._max_age = max_age
        self._known: dict[str, tuple[Status, str]] = {}
        self._last: dict[str, Observation] = {}
        self.changes = Broadcast()

    @property
    def names(self) -> list[str]:
        """The names of the dependencies, in order."""
        return list(self._dependencies)

    def names_of(self, kind: Kind) -> list[str]:
        """Returns the names of the dependencies of one kind, in order."""
        return [name for name, dependency in self._dependencies.items() if dependency.kind is kind]

    async def observe(self, names: Collection[str] = (), *, force: bool = False) -> list[Observation]:
        """Returns the state of the dependencies with these names (default: all), in order. `force`: check each now.

        Raises KeyError for an unknown name.
        """
        chosen = [self._dependencies[name] for name in self._dependencies if not names or name in names]
        if unknown := set(names) - self._dependencies.keys():
            raise KeyError(*unknown)
        max_age = 0.0 if force else self._max_age
        observations = await asyncio.gather(*(dependency.observe(max_age=max_age) for dependency in chosen))
        self._store(observations)
        return observations

    def last(self) -> list[Observation]:
        """Returns the last observation of each dependency that was checked, from memory."""
        return [self._last[name] for name in self._dependencies if name in self._last]

    def details(self, name: str) -> Details:
        """Returns the details of a dependency, from memory. Raises KeyError."""
        return self._dependencies[name].details()

    async def close(self) -> None:
        """Cancels every check, and closes the checkers."""
        self.changes.end()
        await asyncio.gather(*(dependency.close() for dependency in self._dependencies.values()))

    def _store(self, observations: Sequence[Observation]) -> None:
        self._last |= {seen.name: seen for seen in observations}
        states = {seen.name: (seen.status, seen.message) for seen in observations}
        if self._known | states != self._known:
            self._known |= states
            self.changes.announce()
