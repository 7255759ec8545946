"""Instances of vsyncd with a cache."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from vsync.v1 import cid_pb2_grpc
from vsyncd.app import Application
from vsyncd.cache import clock
from vsyncd.config import Settings, load_settings
from vsyncd.observability.metrics import CACHE

from tests.harness.cids import Stub, until


async def when(condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask again and again until it holds."""
    async with asyncio.timeout(60):
        while not await condition():  # noqa: ASYNC110  caches announce nothing
            await asyncio.sleep(0.01)


async def found(result: str, read: Callable[[], Awaitable[object]], kind: str = "cid") -> None:
    """Read until the cache has answered like this once more: on a machine that stalls, reads go past it."""

    async def it_was() -> bool:
        before = CACHE.lookup_count(kind, result)
        await read()
        return CACHE.lookup_count(kind, result) > before

    await when(it_was)


async def stored(count: int, entries: Callable[[], int], read: Callable[[], Awaitable[object]]) -> None:
    """Read until so many records stand in Redis: on a machine that stalls, reads go past it."""

    async def they_are() -> bool:
        await read()
        return entries() == count

    await when(they_are)


async def believed(*applications: Application) -> None:
    """Wait until the caches are in use."""
    for application in applications:
        assert application.cache is not None
        follower = application.cache.follower
        await until(lambda follower=follower: follower.current)  # type: ignore[misc]  # a default binds the loop's variable


@contextlib.asynccontextmanager
async def instance(settings: Settings, **overrides: Any) -> AsyncIterator[tuple[Application, Stub]]:
    """One more vsyncd over the same database."""
    given = load_settings(**settings.model_dump() | overrides)
    async with Application(given) as application:
        await believed(application)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{application.port}") as channel:
            yield application, cid_pb2_grpc.CidServiceStub(channel)


async def followed(*applications: Application) -> None:
    """Wait until the caches have taken in everything that was written before."""
    now = clock.now()
    for application in applications:
        assert application.cache is not None
        follower = application.cache.follower
        await until(lambda follower=follower: follower.confirmed_at >= now)  # type: ignore[misc]  # as above


def server_of(application: Application) -> int:
    """The server whose changes the cache follows, as loads name it."""
    assert application.cache is not None
    place = application.cache.follower._place
    assert place is not None
    return place.life.server
