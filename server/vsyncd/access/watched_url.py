"""A document at a URL that is fetched again from time to time. An invalid new version leaves the last valid one."""

import asyncio
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from typing import Final, Generic, TypeVar

from vsyncd.access.watched_files import Watched
from vsyncd.config import ConfigError

T = TypeVar("T")

_INTERVAL_S: Final = 300.0
# The minimum interval between two requests: callers can cause some, by tokens with an unknown key.
_MIN_INTERVAL_S: Final = 10.0
_TIMEOUT_S: Final = 5.0
_MAX_BYTES: Final = 1024**2


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        """Refuses: a redirect could lead to another host, without TLS."""


_OPENER: Final = urllib.request.build_opener(_NoRedirects)


class WatchedUrl(Watched[T | None], Generic[T]):
    """What a URL contains: `value` is the last valid version, or None before the first one.

    `parse` raises ConfigError.
    """

    def __init__(self, setting: str, url: str, parse: Callable[[bytes], T]) -> None:
        super().__init__(setting, None)
        self._url = url
        self._parse = parse
        self._data = b""
        self._next = time.monotonic()
        self._lock = asyncio.Lock()
        self.problems = (f"{setting}: not fetched yet",)

    async def refresh(self, *, now: bool = False) -> bool:
        """Fetches the document if it is due, or `now` unless that was done a moment ago. See WatchedFiles."""
        async with self._lock:
            due = self._next - (_INTERVAL_S - _MIN_INTERVAL_S if now else 0.0)
            if time.monotonic() < due:
                return False
            self._next = time.monotonic() + _INTERVAL_S
            try:
                data = await asyncio.to_thread(self._fetch)
                value = self._parse(data)
            except ConfigError as error:
                self._next = time.monotonic() + _MIN_INTERVAL_S
                return self._reject(error.lines)
            if data == self._data and not self.problems:
                return False
            self._data = data
            return self._accept(value)

    def _fetch(self) -> bytes:
        try:
            with _OPENER.open(self._url, timeout=_TIMEOUT_S) as response:
                data: bytes = response.read(_MAX_BYTES + 1)
        except (OSError, ValueError, HTTPException) as error:
            # The text of other errors may contain the URL.
            cause = f"HTTP status {error.code}" if isinstance(error, urllib.error.HTTPError) else type(error).__name__
            raise ConfigError(f"{self.setting}: cannot be fetched: {cause}") from error
        if len(data) > _MAX_BYTES:
            raise ConfigError(f"{self.setting}: larger than {_MAX_BYTES} bytes")
        return data
