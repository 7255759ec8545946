"""Drives streams through lost connections, for both kinds of channel. `Reconnect` makes the decisions.

The classes and functions come in pairs: one for threads, one for asyncio.
"""

import asyncio
import math
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from contextlib import aclosing, closing
from typing import Generic, Protocol, Self, TypeVar

from vsync.errors import CallError
from vsync.reconnect import OnWait, Reconnect, ended, no_message

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

# Seconds between two looks of a watchdog at its deadline. gRPC's own blocking waits look as often.
_WATCHDOG_INTERVAL_S = 0.1


class Call(Protocol[T_co]):
    """A call on a grpc.Channel that is answered by a stream."""

    def __next__(self) -> T_co: ...
    def cancel(self) -> object: ...


class AsyncCall(Protocol[T_co]):
    """A call on a grpc.aio.Channel that is answered by a stream."""

    def __aiter__(self) -> AsyncIterator[T_co]: ...
    def cancel(self) -> object: ...


class Messages(Generic[T]):
    """The messages of one attempt. Raises DeadlineExceeded when one takes longer than `reconnect` allows.

    gRPC's blocking iteration has no timeout of its own, so a thread cancels the call when time is up. Close it.
    """

    def __init__(self, call: Call[T], reconnect: Reconnect) -> None:
        self._call = call
        self._reconnect = reconnect
        self._deadline = math.inf
        self._timed_out = False
        self._closed = threading.Event()
        reconnect.begin_attempt()
        threading.Thread(target=self._cancel_at_deadline, name="vsync-stream-watchdog", daemon=True).start()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        limit = self._reconnect.begin_wait()
        self._deadline = time.monotonic() + limit
        try:
            return next(self._call)
        except CallError as error:
            if self._timed_out:
                raise no_message(limit) from error
            raise
        finally:
            self._deadline = math.inf
            self._reconnect.end_wait()

    def close(self) -> None:
        """Cancels the call."""
        self._closed.set()
        self._call.cancel()

    def _cancel_at_deadline(self) -> None:
        while not self._closed.wait(_WATCHDOG_INTERVAL_S):
            if time.monotonic() >= self._deadline:
                self._timed_out = True
                self._call.cancel()
                return


class AsyncMessages(Generic[T]):
    """As Messages, for asyncio."""

    def __init__(self, call: AsyncCall[T], reconnect: Reconnect) -> None:
        self._call = call
        self._answers = aiter(call)
        self._reconnect = reconnect
        reconnect.begin_attempt()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        limit = self._reconnect.begin_wait()
        try:
            async with asyncio.timeout(None if math.isinf(limit) else limit):
                return await anext(self._answers)
        except TimeoutError as error:
            raise no_message(limit) from error
        finally:
            self._reconnect.end_wait()

    async def aclose(self) -> None:
        """Cancels the call."""
        self._call.cancel()


def run_attempts(attempt: Callable[[], Generator[T]], reconnect: Reconnect, on_wait: OnWait) -> Generator[T]:
    """Gives what each attempt gives, until one ends without an error. Raises CallError when there is no further one."""
    while True:
        try:
            with closing(attempt()) as messages:
                yield from messages
        except CallError as error:
            delay = reconnect.delay_after(error)
            on_wait(error, delay)
            time.sleep(delay)
        else:
            return


async def run_attempts_async(
    attempt: Callable[[], AsyncGenerator[T]], reconnect: Reconnect, on_wait: OnWait
) -> AsyncGenerator[T]:
    """As run_attempts, for asyncio."""
    while True:
        try:
            async with aclosing(attempt()) as messages:
                async for message in messages:
                    yield message
        except CallError as error:
            delay = reconnect.delay_after(error)
            on_wait(error, delay)
            await asyncio.sleep(delay)
        else:
            return


def read_stream(
    open_call: Callable[[], Call[T]],
    received: Callable[[T], None],
    reconnect: Reconnect,
    on_wait: OnWait,
    *,
    endless: bool = False,
) -> Iterator[T]:
    """Gives every message of a server's stream. `open_call` asks for what follows the last message `received`.

    `endless`: the stream has no end, so one that is ended by the server is lost.
    """

    def attempt() -> Generator[T]:
        with closing(Messages(open_call(), reconnect)) as messages:
            for message in messages:
                received(message)
                yield message
        if endless:
            raise ended()

    return run_attempts(attempt, reconnect, on_wait)


def read_stream_async(
    open_call: Callable[[], AsyncCall[T]],
    received: Callable[[T], None],
    reconnect: Reconnect,
    on_wait: OnWait,
    *,
    endless: bool = False,
) -> AsyncIterator[T]:
    """As read_stream, for asyncio."""

    async def attempt() -> AsyncGenerator[T]:
        async with aclosing(AsyncMessages(open_call(), reconnect)) as messages:
            async for message in messages:
                received(message)
                yield message
        if endless:
            raise ended()

    return run_attempts_async(attempt, reconnect, on_wait)
