"""Helpers for asyncio tasks and threads."""

import asyncio
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any, Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# On the second cancellation psycopg closes the connection instead of waiting for the server.
_CANCEL_AGAIN_S: Final = 0.5


async def cancel_and_wait(tasks: "Collection[asyncio.Task[Any]]") -> None:
    """Cancels tasks until all have ended, and ignores their errors.

    One cancellation is not enough: on Python 3.11 asyncio.wait_for, which psycopg and its pool use, can swallow a
    cancellation that coincides with the awaited result (psycopg#1401).
    """
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_CANCEL_AGAIN_S)
    for task in tasks:
        if not task.cancelled():
            task.exception()


def transfer_outcome(answer: asyncio.Future[T], task: asyncio.Task[T]) -> None:
    """Sets the answer to the outcome of a task that has ended, unless the answer is set already."""
    if task.cancelled():
        answer.cancel()
    elif (error := task.exception()) is not None:
        if not answer.done():
            answer.set_exception(error)
            answer.exception()  # retrieved: the caller may no longer wait
    elif not answer.done():
        answer.set_result(task.result())


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Works like asyncio.to_thread, but a cancelled caller waits until the thread has ended.

    The caller can then close what the thread used.
    """
    task = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await outlast_cancellation(task)
        raise


async def outlast_cancellation(task: "asyncio.Task[Any]") -> None:
    """Waits until the task has ended, also if the caller is cancelled again: gRPC may cancel a call more than once."""
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait({task})


class Broadcast:
    """Broadcasts state changes to waiting tasks.

    A task gets the event of the next change, reads the state, and then waits for the event. In this order it misses no
    change. After `ended` no further changes follow.
    """

    def __init__(self) -> None:
        self._next = asyncio.Event()
        self.ended = False

    def next(self) -> asyncio.Event:
        """Returns an event that is set by the next change or the end."""
        return self._next

    def announce(self) -> None:
        event = self._next
        if not self.ended:
            self._next = asyncio.Event()
        event.set()

    def end(self) -> None:
        """Announces the end. Later waits return at once."""
        self.ended = True
        self._next.set()
