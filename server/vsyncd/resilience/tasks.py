"""Helpers for asyncio tasks and threads."""

import asyncio
from collections.abc import Callable, Collection
from typing import Any, Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# Seconds. psycopg, interrupted a second time, closes the connection instead of waiting for the server.
_PATIENCE: Final = 0.5


async def cancel_and_wait(tasks: "Collection[asyncio.Task[Any]]") -> None:
    """Cancel tasks until they have ended. Their errors are nobody's any more.

    Once is not enough: on Python 3.11 asyncio.wait_for, which psycopg and its pool wait with, can swallow a
    cancellation that comes together with what it waits for (psycopg#1401).
    """
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_PATIENCE)
    for task in tasks:
        if not task.cancelled():
            task.exception()


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """As asyncio.to_thread; who is cancelled goes when the thread has ended: what it uses is closed behind it."""
    task = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError:
                continue  # gRPC may cancel a call more than once
        raise
