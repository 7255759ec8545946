"""What instances tell each other of their dependencies, through Redis.

Each keeps what it found under a name of its own for 30 s, and tells the others of changes. Whoever hears that another
one has trouble looks for himself, at once: nobody takes another's word, nor Redis's, for the state of his own database.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from vsyncd.cache.errors import CacheError
from vsyncd.cache.wiring import CacheServices
from vsyncd.health.peers import Peers, Said
from vsyncd.health.registry import DependencyRegistry
from vsyncd.observability.logs import logger
from vsyncd.resilience.tasks import cancel_and_wait

# Seconds for which what was said counts, and between two times that it is said.
LASTS: Final = 30.0
BEAT: Final = 10.0
_RETRY: Final = 1.0
# Own beats that were not heard, after which nothing else is heard either.
_MISSED: Final = 2.5

_log = logger(__name__)


class PeerStatus:
    """Tells and hears. `look` is called when another instance says that something has changed."""

    def __init__(
        self, services: CacheServices, board: DependencyRegistry, look: Callable[[], None], *, beat: float = BEAT
    ) -> None:
        self._services = services
        self._board = board
        self._look = look
        self._beat = beat
        self._name = services.keys.instance(services.instance)
        self._said: dict[str, str] | None = None
        self._peers = Peers(lasts=LASTS)
        self._urgent = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def instances(self) -> int:
        """How many there are, this one included."""
        return 1 + len(self.peers)

    @property
    def peers(self) -> Mapping[str, Mapping[str, str]]:
        """What the others said last, by instance: the status of each dependency by name."""
        return self._peers.fresh()

    def start(self) -> None:
        """Begin."""
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._repeat(self._tell), name="health sharing"),
            loop.create_task(self._repeat(self._hear), name="health sharing"),
        ]

    async def stop(self) -> None:
        """End."""
        await cancel_and_wait(self._tasks)

    def tell_soon(self, _state: str = "") -> None:
        """A breaker has changed: the others should hear of it before the next check."""
        self._urgent.set()

    async def _repeat(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
            except CacheError as error:
                _log.debug("health is not shared", error=type(error).__name__)
            except Exception as error:  # noqa: BLE001  a defect here must not leave this instance deaf for good
                _log.error("the sharing of health is defective", exc_info=error)
            await asyncio.sleep(_RETRY)

    async def _tell(self) -> None:
        while True:
            change = self._board.changes.next()
            urgent = self._urgent.is_set()
            self._urgent.clear()
            try:
                await self._say({seen.name: seen.status.name for seen in self._board.last()}, urgent=urgent)
            except CacheError:
                if urgent:
                    self._urgent.set()  # nobody has heard of it yet
                raise
            await self._news(change)
            if self._board.changes.ended:
                return

    async def _say(self, states: dict[str, str], *, urgent: bool) -> None:
        cache, channel = self._services.cache, self._services.keys.channel
        message = Said(self._services.instance, states, look=urgent).encode()
        if urgent or states != self._said or not await cache.refresh_ttl(self._name, LASTS):
            self._said = None
            await cache.set(self._name, message, LASTS)
        await cache.publish(channel, message)
        self._said = states

    async def _news(self, change: asyncio.Event) -> None:
        """Until something has changed, or the time has come."""
        waits = [asyncio.create_task(event.wait()) for event in (change, self._urgent)]
        try:
            await asyncio.wait(waits, timeout=self._beat, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _hear(self) -> None:
        """Until Redis is not there, or not even what this instance says itself comes through: then the way was lost
        without a word, as a firewall does that has forgotten it."""
        if not self._services.breaker.closed:
            return
        listener = await self._services.cache.subscribe(self._services.keys.channel)
        try:
            self._urgent.set()  # who is there already says so when he hears of us
            heard = time.monotonic()
            while self._services.breaker.closed:
                message = await listener.next_message(self._beat)
                said = Said.decode(message) if message is not None else None
                if said is not None and said.instance == self._services.instance:
                    heard = time.monotonic()
                elif said is not None:
                    self._heard(said)
                if time.monotonic() - heard > _MISSED * self._beat:
                    return
        finally:
            await listener.close()

    def _heard(self, said: Said) -> None:
        known = self._peers.heard(said)
        if known is None:
            self._urgent.set()
        if said.look or said.states != known:
            self._look()
