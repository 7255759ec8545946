"""The embedded PostgreSQL and Valkey of `vsyncd serve --embedded`, and their log events."""

import asyncio
from pathlib import Path

from vsyncd.config import Settings
from vsyncd.embedded import EmbeddedPostgres, EmbeddedValkey, service_conninfo, supervise
from vsyncd.observability import logs

_log = logs.logger(__name__)


class EmbeddedServers:
    """PostgreSQL and Valkey with one data folder. They are restarted if they end unexpectedly."""

    def __init__(self, data_dir: Path) -> None:
        data_dir = data_dir.expanduser().absolute()
        self.postgres = EmbeddedPostgres(data_dir)
        self._valkey = EmbeddedValkey(data_dir / "valkey")
        self._supervisors: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Starts and supervises both. Raises EmbeddedError; `stop` must be called in any case."""
        await self.postgres.start()
        _log.info("PostgreSQL started", data_dir=str(self.postgres.data_dir))
        await self._valkey.start()
        _log.info("Valkey started", data_dir=str(self.postgres.data_dir))
        self._supervisors = [
            asyncio.create_task(supervise(server, _log.log)) for server in (self.postgres, self._valkey)
        ]

    def configure(self, settings: Settings) -> Settings:
        """Returns the settings with these servers as database and cache."""
        conninfo = self.postgres.conninfo
        return settings.with_database(service_conninfo(conninfo), owner=conninfo).with_redis(self._valkey.url)

    async def supervision(self) -> None:
        """Waits until a server can no longer be restarted, and raises EmbeddedError.

        Cancelling ends the supervision.
        """
        await asyncio.gather(*self._supervisors)

    async def stop(self) -> None:
        """Ends the supervision and stops both servers."""
        for supervisor in self._supervisors:
            supervisor.cancel()
        await asyncio.gather(*self._supervisors, return_exceptions=True)
        await self._valkey.stop()
        await self.postgres.stop()
