"""All dependencies: checked in parallel, each by itself."""

import asyncio
from collections.abc import Collection, Sequence

from vsyncd.health.broadcast import Broadcast
from vsyncd.health.checker import DependencyChecker
from vsyncd.health.dependency import Dependency
from vsyncd.health.records import Details, Kind, Observation, Status


class DependencyRegistry:
    """Every dependency of this process.

    `timeout`: the most seconds that one check takes. `max_age`: the seconds for which its result is used again.
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
        """The names of the dependencies of one kind, in order."""
        return [name for name, dependency in self._dependencies.items() if dependency.kind is kind]

    async def observe(self, names: Collection[str] = (), *, anew: bool = False) -> list[Observation]:
        """The dependencies of these names (none: all), in order. `anew`: each checked now.

        Raises KeyError for a name that is not one.
        """
        chosen = [self._dependencies[name] for name in self._dependencies if not names or name in names]
        if unknown := set(names) - self._dependencies.keys():
            raise KeyError(*unknown)
        max_age = 0.0 if anew else self._max_age
        observations = await asyncio.gather(*(dependency.observe(max_age=max_age) for dependency in chosen))
        self._notice(observations)
        return observations

    def last(self) -> list[Observation]:
        """The last observation of each dependency that was checked before, from memory."""
        return [self._last[name] for name in self._dependencies if name in self._last]

    def details(self, name: str) -> Details:
        """What is known of a dependency, from memory. Raises KeyError."""
        return self._dependencies[name].details()

    async def close(self) -> None:
        """End every check and close what they keep open."""
        self.changes.end()
        await asyncio.gather(*(dependency.close() for dependency in self._dependencies.values()))

    def _notice(self, observations: Sequence[Observation]) -> None:
        self._last |= {seen.name: seen for seen in observations}
        states = {seen.name: (seen.status, seen.message) for seen in observations}
        if self._known | states != self._known:
            self._known |= states
            self.changes.announce()
