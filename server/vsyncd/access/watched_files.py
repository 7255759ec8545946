"""Files that are read again when they change. An invalid new version leaves the last valid one in force."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Generic, TypeVar

from vsyncd.config import ConfigError
from vsyncd.observability.logs import logger
from vsyncd.observability.metrics import RELOAD_INVALID, RELOADS

T = TypeVar("T")

_MAX_LOGGED_PROBLEMS: Final = 5
_log = logger(__name__)


class Watched(Generic[T]):
    """Something that may change: `value` is its last valid version, `problems` say why the present one is not used."""

    def __init__(self, setting: str, value: T) -> None:
        self.setting = setting
        self.value = value
        self.problems: tuple[str, ...] = ()
        RELOAD_INVALID.labels(setting).set(0)

    async def refresh(self, *, now: bool = False) -> bool:
        """Reads the present version, `now` even if it is not due. Returns whether `value` or `problems` changed."""
        raise NotImplementedError

    def _accept(self, value: T) -> bool:
        self.value, self.problems = value, ()
        RELOADS.labels(self.setting, "succeeded").inc()
        RELOAD_INVALID.labels(self.setting).set(0)
        _log.info("reloaded", setting=self.setting)
        return True

    def _reject(self, problems: tuple[str, ...]) -> bool:
        """Notes an invalid version. The same problems are logged and counted once."""
        if problems == self.problems:
            return False
        self.problems = problems
        RELOADS.labels(self.setting, "failed").inc()
        RELOAD_INVALID.labels(self.setting).set(1)
        _log.error(
            "invalid version: the previous one stays in force",
            setting=self.setting,
            problems=problems[:_MAX_LOGGED_PROBLEMS],
            left_out=max(0, len(problems) - _MAX_LOGGED_PROBLEMS),
        )
        return True


class WatchedFiles(Watched[T]):
    """What one or several files contain.

    `files` has the path of each setting. `parse` takes the contents in this order, and raises ConfigError with a line
    for each problem. The constructor raises it, too.
    """

    def __init__(self, files: Mapping[str, str], parse: Callable[..., T]) -> None:
        self._files = dict(files)
        self._parse = parse
        self._contents = self._read()
        super().__init__(next(iter(files)), parse(*self._contents))

    async def refresh(self, *, now: bool = False) -> bool:  # noqa: ARG002  files are always due
        """See Watched."""
        try:
            contents = await asyncio.to_thread(self._read)
            if contents == self._contents:
                return False
            self._contents = contents
            return self._accept(await asyncio.to_thread(self._parse, *contents))
        except ConfigError as error:
            self._contents = ()  # the next version counts even if it equals the one in force
            return self._reject(error.lines)

    def _read(self) -> tuple[bytes, ...]:
        return tuple(read_file(setting, path) for setting, path in self._files.items())


def read_file(setting: str, path: str) -> bytes:
    """Returns the contents of the file of a setting. Raises ConfigError."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{setting}: cannot read {path}: {error.strerror}") from error
