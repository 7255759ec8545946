"""Hearing what is published on a channel of Redis."""

from collections.abc import Mapping
from typing import Any

from vsyncd.cache.errors import REDIS_ERRORS, CacheUnavailable


class Subscriber:
    """Over a connection of its own, which has to be closed. A way that is lost without a word is not noticed here."""

    def __init__(self, subscription: Any) -> None:  # noqa: ANN401  redis-py has a class of its own for clusters
        self._subscription = subscription

    async def hear(self, seconds: float) -> bytes | None:
        """The next message; None when there is none for so long. Raises CacheUnavailable."""
        try:
            said = await self._subscription.get_message(timeout=seconds)
        except REDIS_ERRORS as error:
            raise CacheUnavailable("Redis does not answer") from error
        data = said.get("data") if isinstance(said, Mapping) and said.get("type") == "message" else None
        return data if isinstance(data, bytes) else None

    async def close(self) -> None:
        """Close the connection."""
        await self._subscription.aclose()
