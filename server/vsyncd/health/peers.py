"""What other instances said of their dependencies. Anyone who reaches Redis can say anything: it is bounded."""

import json
import time
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, Self

# Bytes of a message, and instances that are remembered, at the most.
_LONGEST: Final = 16_384
_MOST: Final = 1_000


class Said(NamedTuple):
    """What an instance says: the status of each dependency by name. `look`: it is worth a look at once."""

    instance: str
    states: Mapping[str, str]
    look: bool

    def encode(self) -> bytes:
        """As it is published."""
        return json.dumps({"instance": self.instance, "dependencies": self.states, "look": self.look}).encode()

    @classmethod
    def decode(cls, data: bytes) -> Self | None:
        """None: not what an instance says."""
        if len(data) > _LONGEST:
            return None
        try:
            said = json.loads(data)
            states = {str(name): str(status) for name, status in dict(said["dependencies"]).items()}
            return cls(str(said["instance"]), states, bool(said["look"]))
        except (ValueError, TypeError, KeyError, RecursionError):
            return None


class Peers:
    """The other instances, each for `lasts` seconds after it was heard of."""

    def __init__(self, *, lasts: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._lasts = lasts
        self._clock = clock
        self._known: dict[str, tuple[float, Mapping[str, str]]] = {}

    def fresh(self) -> Mapping[str, Mapping[str, str]]:
        """What they said last, by instance."""
        since = self._clock() - self._lasts
        return {name: states for name, (at, states) in self._known.items() if at > since}

    def heard(self, said: Said) -> Mapping[str, str] | None:
        """Remember it; what the same instance said before, None if it is a new one. One too many is none."""
        fresh = self.fresh()
        self._known = {name: self._known[name] for name in fresh}
        if said.instance not in fresh and len(fresh) >= _MOST:
            return said.states
        self._known[said.instance] = (self._clock(), said.states)
        return fresh.get(said.instance)
