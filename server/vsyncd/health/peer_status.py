"""Shares the state of dependencies between instances, through Redis.

Each instance stores its observations under its own key for 30 s, and publishes changes. An instance that receives a
change of another one checks its own dependencies at once. It never adopts the state that others report, because another
instance may reach a database that this one does not, and anyone who can write to Redis can publish messages.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NamedTuple, Self

from vsyncd.cache.operations import CacheError
from vsyncd.cache.wiring import CacheServices
from vsyncd.health.registry import DependencyRegistry
from vsyncd.observability.logs import logger
from vsyncd.resilience.tasks import cancel_and_wait

# The validity of a message, and the interval between two messages of an instance.
TTL_S: Final = 30.0
INTERVAL_S: Final = 10.0
_RETRY_S: Final = 1.0
# After so many intervals without its own messages, an instance subscribes again.
_MAX_MISSED_INTERVALS: Final = 2.5
# Anyone who reaches Redis can publish, so messages and instances are limited.
_MAX_MESSAGE_BYTES: Final = 16_384
_MAX_PEERS: Final = 1_000

_log = logger(__name__)


class PeerMessage(NamedTuple):
    """The message of an instance: the status of each dependency by name. `urgent`: others should check at once."""

    instance: str
    states: Mapping[str, str]
    urgent: bool

    def encode(self) -> bytes:
        return json.dumps({"instance": self.instance, "dependencies": self.states, "look": self.urgent}).encode()

    @classmethod
    def decode(cls, data: bytes) -> Self | None:
        """Parses a message. Returns None if it is invalid."""
        if len(data) > _MAX_MESSAGE_BYTES:
            return None
        try:
            fields = json.loads(data)
            states = {str(name): str(status) for name, status in dict(fields["dependencies"]).items()}
            return cls(str(fields["instance"]), states, bool(fields["look"]))
        except (ValueError, TypeError, KeyError, RecursionError):
            return None


class Peers:
    """The last message of each other instance, for `ttl` seconds."""

    def __init__(self, *, ttl: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._ttl = ttl
        self._clock = clock
        self._known: dict[str, tuple[float, Mapping[str, str]]] = {}

    def fresh(self) -> Mapping[str, Mapping[str, str]]:
        """Returns the states of every instance whose message is still valid."""
        since = self._clock() - self._ttl
        return {name: states for name, (at, states) in self._known.items() if at > since}

    def store(self, message: PeerMessage) -> Mapping[str, str] | None:
        """Stores a message. Returns the instance's previous states, or None for a new instance.

        Ignores a new instance if there are _MAX_PEERS already, and returns its states unchanged.
        """
        fresh = self.fresh()
        self._known = {name: self._known[name] for name in fresh}
        if message.instance not in fresh and len(fresh) >= _MAX_PEERS:
            return message.states
        self._known[message.instance] = (self._clock(), message.states)
        return fresh.get(message.instance)


class PeerStatus:
    """Publishes the state of this instance and receives that of others.

    `check_now` is called when another instance reports a change.
    """

    def __init__(
        self,
        services: CacheServices,
        registry: DependencyRegistry,
        check_now: Callable[[], None],
        *,
        interval: float = INTERVAL_S,
    ) -> None:
        self._services = services
        self._registry = registry
        self._check_now = check_now
        self._interval = interval
        self._key = services.keys.instance(services.instance)
        self._published: dict[str, str] | None = None
        self._peers = Peers(ttl=TTL_S)
        self._urgent = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def instances(self) -> int:
        """The number of instances, including this one."""
        return 1 + len(self.peers)

    @property
    def peers(self) -> Mapping[str, Mapping[str, str]]:
        """The status of each dependency by name, of each other instance."""
        return self._peers.fresh()

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._repeat(work), name="peer status") for work in (self._publish_all, self._receive_all)
        ]

    async def stop(self) -> None:
        await cancel_and_wait(self._tasks)

    def publish_soon(self, _state: str = "") -> None:
        """Publishes before the next check, because a circuit breaker has changed."""
        self._urgent.set()

    async def _repeat(self, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
            except CacheError as error:
                _log.debug("peer status is not shared", error=type(error).__name__)
            except Exception as error:  # noqa: BLE001  a defect here must not end the sharing for good
                _log.error("peer status raised an unexpected error", exc_info=error)
            await asyncio.sleep(_RETRY_S)

    async def _publish_all(self) -> None:
        while True:
            change = self._registry.changes.next()
            urgent = self._urgent.is_set()
            self._urgent.clear()
            try:
                await self._publish({seen.name: seen.status.name for seen in self._registry.last()}, urgent=urgent)
            except CacheError:
                if urgent:
                    self._urgent.set()  # not published yet
                raise
            await self._wait_for_change(change)
            if self._registry.changes.ended:
                return

    async def _publish(self, states: dict[str, str], *, urgent: bool) -> None:
        cache, channel = self._services.cache, self._services.keys.channel
        message = PeerMessage(self._services.instance, states, urgent).encode()
        if urgent or states != self._published or not await cache.refresh_ttl(self._key, TTL_S):
            self._published = None
            await cache.set(self._key, message, TTL_S)
        await cache.publish(channel, message)
        self._published = states

    async def _wait_for_change(self, change: asyncio.Event) -> None:
        """Waits for a change, an urgent message, or the end of the interval."""
        waits = [asyncio.create_task(event.wait()) for event in (change, self._urgent)]
        try:
            await asyncio.wait(waits, timeout=self._interval, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _receive_all(self) -> None:
        """Receives messages until the circuit breaker opens or the instance's own messages no longer arrive.

        The latter detects a connection that was lost without an error, for example by a firewall.
        """
        if not self._services.breaker.closed:
            return
        listener = await self._services.cache.subscribe(self._services.keys.channel)
        try:
            self._urgent.set()  # makes the other instances publish, too
            last_own = time.monotonic()
            while self._services.breaker.closed:
                data = await listener.next_message(self._interval)
                message = PeerMessage.decode(data) if data is not None else None
                if message is not None and message.instance == self._services.instance:
                    last_own = time.monotonic()
                elif message is not None:
                    self._received(message)
                if time.monotonic() - last_own > _MAX_MISSED_INTERVALS * self._interval:
                    return
        finally:
            await listener.close()

    def _received(self, message: PeerMessage) -> None:
        previous = self._peers.store(message)
        if previous is None:
            self._urgent.set()
        if message.urgent or message.states != previous:
            self._check_now()
