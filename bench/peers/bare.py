"""vsyncd without its pool manager: no circuit breaker, no connection limiter, no retries, no separate tasks.

It uses psycopg's pool directly. Everything else is unchanged. `python -m bench.peers.bare` serves like `vsyncd serve`,
with settings from the environment.
"""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import TypeVar

import uvloop
from psycopg_pool import AsyncConnectionPool
from vsyncd.app import Application
from vsyncd.config import Settings
from vsyncd.config.connections import service_conninfo
from vsyncd.domains.registry import load_settings
from vsyncd.observability.logs import configure
from vsyncd.postgres.connection import Connection
from vsyncd.postgres.consistency import ReadPreference
from vsyncd.postgres.database import Database
from vsyncd.postgres.error_mapping import ConstraintErrors
from vsyncd.postgres.queries import Session

T = TypeVar("T")


class BareDatabase(Database):
    """Takes a connection of the pool for each use and does nothing else."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._bare: AsyncConnectionPool[Connection] = AsyncConnectionPool(
            service_conninfo(settings),
            connection_class=Connection,
            kwargs={"connector": self.primary.connector},
            min_size=settings.db_min_connections,
            max_size=settings.db_max_connections,
            open=False,
        )

    async def open(self) -> None:
        await super().open()
        await self._bare.open(wait=True)

    async def close(self) -> None:
        await self._bare.close()
        await super().close()

    async def read_as(
        self,
        preference: ReadPreference,  # noqa: ARG002  every read uses the same pool here
        work: Callable[[Session], Awaitable[T]],
        *,
        bounded: bool = False,  # noqa: ARG002  as above
    ) -> T:
        async with self._bare.connection() as connection:
            return await work(Session(connection))

    async def once(self, work: Callable[[Session], Awaitable[T]]) -> T:
        async with self._bare.connection() as connection:
            return await work(Session(connection))

    async def transaction(
        self,
        work: Callable[[Session], Awaitable[T]],
        *,
        repeatable: bool = False,  # noqa: ARG002  as above
        constraint_errors: ConstraintErrors | None = None,  # noqa: ARG002  as above
    ) -> T:
        async with self._bare.connection() as connection, connection.transaction():
            return await work(Session(connection))


async def main(settings: Settings) -> None:
    """Serve until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with Application(settings, database=BareDatabase):
        await stop.wait()


if __name__ == "__main__":
    settings = load_settings()
    configure(level=settings.log_level, form=settings.log_format)
    uvloop.run(main(settings))
