"""Whether this process is alive, from memory only: what it is made of was put together, or not yet.

A dependency's outage never shows here: restarting the process would not help.
"""

from typing import Final, NamedTuple

COMPONENTS: Final = ("config", "grpc_server", "database_pool", "cache")


class Component(NamedTuple):
    """A part of this process."""

    name: str
    ready: bool
    message: str


class Liveness:
    """The parts of this process. The composition root marks each when it is there."""

    def __init__(self) -> None:
        self._components = {name: Component(name, ready=False, message="not initialised") for name in COMPONENTS}

    def mark(self, name: str, *, ready: bool = True, message: str = "initialised") -> None:
        """A part's state. Raises KeyError for one that is not in COMPONENTS."""
        self._components[self._components[name].name] = Component(name, ready, message)

    def is_ready(self, name: str) -> bool:
        """Whether a part is there."""
        return self._components[name].ready

    @property
    def components(self) -> list[Component]:
        """Every part, in order."""
        return list(self._components.values())

    @property
    def alive(self) -> bool:
        """Whether every part is there."""
        return all(component.ready for component in self._components.values())

    @property
    def message(self) -> str:
        """Why it is alive or not, in a sentence."""
        missing = [component.name for component in self._components.values() if not component.ready]
        return f"Not initialised: {', '.join(missing)}." if missing else "The process is alive."
