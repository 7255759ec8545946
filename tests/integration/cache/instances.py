"""Instances of vsyncd with a cache, and conditions to wait for."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import grpc
from vsync.v1 import cid_pb2_grpc
from vsyncd.app import Application
from vsyncd.cache import clock
from vsyncd.cache.invalidator import Invalidator
from vsyncd.config import Settings
from vsyncd.domains.registry import load_settings
from vsyncd.observability.metrics import CACHE_LOOKUPS

from tests.harness.cids import Stub, until


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Checks the condition repeatedly until it holds."""
    async with asyncio.timeout(60):
        while not await condition():  # noqa: ASYNC110  caches have no event to wait for
            await asyncio.sleep(0.01)


async def looked_up(result: str, read: Callable[[], Awaitable[object]], kind: str = "cid") -> None:
    """Reads until the cache reports this result once more. On a machine that stalls, reads bypass the cache."""

    async def reported() -> bool:
        before = CACHE_LOOKUPS.value(kind, result)
        await read()
        return CACHE_LOOKUPS.value(kind, result) > before

    await eventually(reported)


async def stored(count: int, entries: Callable[[], int], read: Callable[[], Awaitable[object]]) -> None:
    """Reads until this number of records is in Redis. On a machine that stalls, reads bypass the cache."""

    async def all_stored() -> bool:
        await read()
        return entries() == count

    await eventually(all_stored)


def invalidator_of(application: Application) -> Invalidator:
    """The instance's invalidator."""
    assert application.cache is not None
    return application.cache.invalidator


async def cache_in_use(*applications: Application) -> None:
    """Waits until the caches may be used."""
    for application in applications:
        await until(partial(getattr, invalidator_of(application), "is_current"))


@contextlib.asynccontextmanager
async def instance(settings: Settings, **overrides: Any) -> AsyncIterator[tuple[Application, Stub]]:
    """One more vsyncd over the same database."""
    given = load_settings(**settings.model_dump() | overrides)
    async with Application(given) as application:
        await cache_in_use(application)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{application.port}") as channel:
            yield application, cid_pb2_grpc.CidServiceStub(channel)


async def invalidated(*applications: Application) -> None:
    """Waits until everything that was written before is invalidated in the caches."""
    now = clock.now()
    for application in applications:
        invalidator = invalidator_of(application)
        await until(lambda invalidator=invalidator: invalidator.confirmed_at >= now)  # type: ignore[misc]  # a default binds the loop's variable


def server_of(application: Application) -> int:
    """The number of the server whose change feed the cache follows."""
    watermark = invalidator_of(application).watermark
    assert watermark is not None
    return watermark.incarnation.server
