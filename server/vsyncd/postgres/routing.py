"""Which servers a read may be answered by, in order."""

from collections.abc import Iterator, Sequence

from vsyncd.postgres.consistency import ReadPreference, Reads, WalPosition
from vsyncd.postgres.database_server import DatabaseServer


class Router:
    """The primary and its replicas. `max_lag` in seconds: a replica that is behind for longer is not read from."""

    def __init__(self, primary: DatabaseServer, replicas: Sequence[DatabaseServer], *, max_lag: float) -> None:
        self.primary = primary
        self.replicas = tuple(replicas)
        self._max_lag = max_lag
        self._turn = 0

    def candidates(self, wish: ReadPreference) -> Iterator[DatabaseServer]:
        """Servers to try, one after the other, while they turn out to be down: each at most once.

        What a replica is worth is looked at when its turn comes.
        """
        replicas = self._in_turn() if self.replicas and wish.reads is not Reads.PRIMARY else ()
        first = None
        if wish.reads is Reads.MANY:
            first = next((replica for replica in replicas if self.serves(replica, wish.position)), None)
            if first is not None:
                yield first
        yield self.primary
        for replica in replicas:
            if replica is not first and self.serves(replica, wish.position):
                yield replica

    def serves(self, replica: DatabaseServer, position: WalPosition | None = None) -> bool:
        """Whether a replica may be read from now, by someone who wants to see what stands at `position`."""
        seen = replica.seen
        if seen is None or not replica.breaker.closed or not seen.fresh:
            return False
        if seen.diverged or seen.lag.seconds > self._max_lag:
            return False
        return position is None or seen.position.covers(position)

    def is_read_from(self, target: DatabaseServer) -> bool:
        """Whether reads go to a server now; to the primary always, while it is there."""
        return target.breaker.closed if target is self.primary else self.serves(target)

    @property
    def read_only(self) -> bool:
        """Whether reads could be served without the primary."""
        return any(self.serves(replica) for replica in self.replicas)

    def _in_turn(self) -> Sequence[DatabaseServer]:
        self._turn = (self._turn + 1) % len(self.replicas)
        return self.replicas[self._turn :] + self.replicas[: self._turn]
