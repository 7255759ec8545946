"""Selects the servers that may execute a read, in order."""

from collections.abc import Iterator, Sequence

from vsyncd.postgres.consistency import ReadMode, ReadPreference, WalPosition
from vsyncd.postgres.database_server import DatabaseServer


class Router:
    """Routes reads to the primary and its replicas. A replica with a lag over `max_lag` seconds is not used."""

    def __init__(self, primary: DatabaseServer, replicas: Sequence[DatabaseServer], *, max_lag: float) -> None:
        self.primary = primary
        self.replicas = tuple(replicas)
        self._max_lag = max_lag
        self._next_replica = 0

    def candidates(self, preference: ReadPreference) -> Iterator[DatabaseServer]:
        """Yields the servers to try, each at most once, until one of them answers.

        A replica's state is checked immediately before it is yielded.
        """
        replicas = self._rotated() if self.replicas and preference.mode is not ReadMode.PRIMARY else ()
        first = None
        if preference.mode is ReadMode.REPLICA_PREFERRED:
            first = next((replica for replica in replicas if self.is_usable(replica, preference.min_position)), None)
            if first is not None:
                yield first
        yield self.primary
        for replica in replicas:
            if replica is not first and self.is_usable(replica, preference.min_position):
                yield replica

    def is_usable(self, replica: DatabaseServer, min_position: WalPosition | None = None) -> bool:
        """Whether reads may use a replica now, if they need what was written up to `min_position`."""
        status = replica.last_status
        if status is None or not replica.breaker.closed or not status.is_fresh:
            return False
        if status.diverged or status.lag.seconds > self._max_lag:
            return False
        return min_position is None or status.position.covers(min_position)

    def receives_reads(self, server: DatabaseServer) -> bool:
        """Whether reads are sent to a server now. The primary receives reads whenever it is available."""
        return server.breaker.closed if server is self.primary else self.is_usable(server)

    @property
    def read_only(self) -> bool:
        """Whether replicas could serve reads without the primary."""
        return any(self.is_usable(replica) for replica in self.replicas)

    def _rotated(self) -> Sequence[DatabaseServer]:
        self._next_replica = (self._next_replica + 1) % len(self.replicas)
        return self.replicas[self._next_replica :] + self.replicas[: self._next_replica]
