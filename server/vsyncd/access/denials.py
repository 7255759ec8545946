"""Records denied calls in the audit trail: at most one entry per principal and method per minute, with a count."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from vsyncd.core.errors import ServiceError
from vsyncd.observability.logs import logger

_INTERVAL_S: Final = 60.0
_RETRY_S: Final = 5.0
_FINISH_TIMEOUT_S: Final = 1.0
# A principal that the authority signs may have any name, so the number of pairs is limited. Metrics calls all denials.
_MAX_PAIRS: Final = 10_000

_log = logger(__name__)


class Denial(NamedTuple):
    """Denied calls of a principal to a method, and the correlation id of the first one."""

    principal: str
    method: str
    correlation_id: str
    calls: int


@dataclass(slots=True)
class _Pair:
    correlation_id: str = ""
    calls: int = 0
    recorded_at: float = float("-inf")


class Denials:
    """Counts denied calls. `run` records them with `record`, which may raise ServiceError: they are recorded later."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pairs: dict[tuple[str, str], _Pair] = {}
        self._noted = asyncio.Event()

    def note(self, principal: str, method: str, correlation_id: str) -> None:
        """Counts a denied call."""
        key = (principal, method)
        pair = self._pairs.get(key)
        if pair is None:
            if len(self._pairs) >= _MAX_PAIRS:
                return
            pair = self._pairs[key] = _Pair()
        if not pair.calls:
            pair.correlation_id = correlation_id
        pair.calls += 1
        self._noted.set()

    async def run(self, record: Callable[[Denial], Awaitable[None]]) -> None:
        """Records denials until it is cancelled."""
        while True:
            await self._noted.wait()
            self._noted.clear()
            await self.flush(record)
            if any(pair.calls for pair in self._pairs.values()):
                self._noted.set()
                await asyncio.sleep(_RETRY_S)

    async def finish(self, record: Callable[[Denial], Awaitable[None]]) -> None:
        """Records what is left at shutdown, if the database answers soon."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FINISH_TIMEOUT_S):
                await self.flush(record, interval=0.0)

    async def flush(self, record: Callable[[Denial], Awaitable[None]], *, interval: float = _INTERVAL_S) -> None:
        """Records the pairs whose last entry is older than `interval` seconds."""
        now = self._clock()
        for key, pair in list(self._pairs.items()):
            if now - pair.recorded_at < interval:
                continue
            if not pair.calls:
                del self._pairs[key]
                continue
            if not await self._record(key, pair, record):
                return
            pair.recorded_at = now

    async def _record(self, key: tuple[str, str], pair: _Pair, record: Callable[[Denial], Awaitable[None]]) -> bool:
        """Records a pair. Returns whether that succeeded; otherwise, and if it is cancelled, its calls remain."""
        denial, pair.calls = Denial(*key, pair.correlation_id, pair.calls), 0
        recorded = False
        try:
            await record(denial)
            recorded = True
        except ServiceError as error:
            _log.warning("denied calls are not recorded yet", reason=error.reason)
        finally:
            if not recorded:
                pair.correlation_id, pair.calls = denial.correlation_id, pair.calls + denial.calls
        return recorded
