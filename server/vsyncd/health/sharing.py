"""What instances tell each other of their dependencies, through Redis.

Each keeps what it found under a name of its own for 30 s, and tells the others of changes. Whoever hears that another
one has trouble looks for himself, at once: nobody takes another's word, nor Redis's, for the state of his own database.
"""

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from redis.exceptions import RedisError

from vsyncd.cache.errors import CacheError
from vsyncd.cache.room import CacheRoom
from vsyncd.health.board import Board
from vsyncd.logs import logger
from vsyncd.postgres.endings import end

# Seconds.
LASTS: Final = 30.0
_BEAT: Final = 10.0
_RETRY: Final = 1.0

_log = logger(__name__)


class HealthSharing:
    """Tells and hears. `look` is called when another instance says that something has changed."""

    def __init__(self, room: CacheRoom, board: Board, look: Callable[[], None]) -> None:
        self._room = room
        self._board = board
        self._look = look
        self._name = room.names.instance(room.instance)
        self._said: dict[str, str] | None = None
        self._peers: dict[str, tuple[float, Mapping[str, str]]] = {}
        self._urgent = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def instances(self) -> int:
        """How many there are, this one included."""
        return 1 + len(self.peers)

    @property
    def peers(self) -> Mapping[str, Mapping[str, str]]:
        """What the others said last, by instance: the status of each dependency by name."""
        since = time.monotonic() - LASTS
        return {name: states for name, (at, states) in self._peers.items() if at > since}

    def start(self) -> None:
        """Begin."""
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._repeat(self._tell), name="health sharing"),
            loop.create_task(self._repeat(self._hear), name="health sharing"),
        ]

    async def stop(self) -> None:
        """End."""
        await end(self._tasks)

    def tell_soon(self, _state: str = "") -> None:
        """A breaker has changed: the others should hear of it before the next check."""
        self._urgent.set()

    async def _repeat(self, work: Callable[[], Any]) -> None:
        while True:
            try:
                await work()
            except (CacheError, RedisError, OSError) as error:
                _log.debug("health is not shared", error=type(error).__name__)
            await asyncio.sleep(_RETRY)

    async def _tell(self) -> None:
        while True:
            change = self._board.changes.next()
            urgent = self._urgent.is_set()
            self._urgent.clear()
            states = {seen.name: seen.status.name for seen in self._board.last()}
            said = {"instance": self._room.instance, "dependencies": states, "look": urgent}
            message = json.dumps(said).encode()
            if urgent or states != self._said:
                await self._room.cache.set(self._name, message, LASTS)
                await self._room.cache.publish(self._room.names.channel, message)
                self._said = states
            elif not await self._room.cache.refresh_ttl(self._name, LASTS):
                self._said = None
                continue
            else:
                await self._room.cache.publish(self._room.names.channel, message)
            await self._news(change)
            if self._board.changes.ended:
                return

    async def _news(self, change: asyncio.Event) -> None:
        """Until something has changed, or the time has come."""
        waits = [asyncio.create_task(event.wait()) for event in (change, self._urgent)]
        try:
            await asyncio.wait(waits, timeout=_BEAT, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _hear(self) -> None:
        if not self._room.breaker.closed:
            return
        listener = await self._room.cache.listen(self._room.names.channel)
        try:
            self._urgent.set()  # who is there already says so when he hears of us
            while self._room.breaker.closed:
                message = await listener.get_message(timeout=_BEAT)
                if message is not None and message["type"] == "message":
                    self._heard(message["data"])
        finally:
            await listener.aclose()

    def _heard(self, data: bytes) -> None:
        try:
            said = json.loads(data)
            instance, states, urgent = str(said["instance"]), dict(said["dependencies"]), bool(said["look"])
        except (ValueError, TypeError, KeyError):
            return
        if instance == self._room.instance:
            return
        known = self.peers.get(instance)
        self._peers[instance] = (time.monotonic(), states)
        if known is None:
            self._urgent.set()
        if urgent or known != states:
            self._look()
