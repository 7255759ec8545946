"""The liveness of this process, from memory: whether its components are initialised.

The outage of a dependency does not affect it, because a restart of the process would not help.
"""

from typing import Final, NamedTuple

COMPONENTS: Final = ("config", "grpc_server", "database_pool", "cache")


class Component(NamedTuple):
    """A component of this process."""

    name: str
    ready: bool
    message: str


class Liveness:
    """The components of this process. The composition root marks each one when it is initialised."""

    def __init__(self) -> None:
        self._components = {name: Component(name, ready=False, message="not initialised") for name in COMPONENTS}

    def mark(self, name: str, *, ready: bool = True, message: str = "initialised") -> None:
        """Sets the state of a component. Raises KeyError if it is not in COMPONENTS."""
        self._components[self._components[name].name] = Component(name, ready, message)

    def is_ready(self, name: str) -> bool:
        """Returns whether a component is initialised."""
        return self._components[name].ready

    @property
    def components(self) -> list[Component]:
        """Every component, in order."""
        return list(self._components.values())

    @property
    def alive(self) -> bool:
        """Whether every component is initialised."""
        return all(component.ready for component in self._components.values())

    @property
    def message(self) -> str:
        """The reason for the liveness, as a sentence."""
        missing = [component.name for component in self._components.values() if not component.ready]
        return f"Not initialised: {', '.join(missing)}." if missing else "The process is alive."
