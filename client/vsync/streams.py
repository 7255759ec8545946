"""Streams that survive lost connections.

A ResumableStream holds the state of one stream and performs no I/O, so one class serves asyncio and threads. `run` and
`run_async` move it over a call, attempt by attempt. `Reconnect` decides about time limits and further attempts.
"""

import asyncio
import math
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterable
from contextlib import aclosing, closing
from itertools import chain
from typing import Generic, Protocol, Self, TypeVar

from google.protobuf.message import Message

from vsync.errors import CallError
from vsync.reconnect import OnReconnect, Reconnect, message_timeout

Answer = TypeVar("Answer")
Item = TypeVar("Item")
AnyCall = TypeVar("AnyCall")
T_co = TypeVar("T_co", covariant=True)

# The interval at which a watchdog looks at its deadline. gRPC's own blocking waits use the same one.
_WATCHDOG_INTERVAL_S = 0.1


class Call(Protocol[T_co]):
    """A call with a response stream on a grpc.Channel."""

    def __next__(self) -> T_co: ...
    def cancel(self) -> object: ...


class AsyncCall(Protocol[T_co]):
    """A call with a response stream on a grpc.aio.Channel."""

    def __aiter__(self) -> AsyncIterator[T_co]: ...
    def cancel(self) -> object: ...


class ResumableStream(ABC, Generic[Answer, Item]):
    """The state of one stream over all its attempts: receives answers, returns items for the caller."""

    def __init__(self, reconnect: Reconnect) -> None:
        self.reconnect = reconnect

    @abstractmethod
    def call(self, method: Callable[..., AnyCall], requests: object, /) -> AnyCall:
        """Calls the stub's method. `requests` is the iterator of a method that takes a request stream."""

    def begin(self) -> Iterable[Message]:
        """Begins an attempt. Returns its first requests."""
        return ()

    def requests(self) -> Iterable[Message]:
        """Returns the requests that can be sent now. Called after each answer; gRPC's thread or task iterates."""
        return ()

    @property
    def upload_complete(self) -> bool:
        """Whether the last result of `requests` ends the upload."""
        return True

    @abstractmethod
    def received(self, answer: Answer) -> Item | None:
        """Processes an answer. Returns the item for the caller, if the answer has one. Raises VsyncError."""

    def ended(self) -> None:
        """Checks that the stream is complete when the server ends it. Raises VsyncError."""

    def failed(self, error: CallError) -> None:
        """Raises the cause of a failed attempt, if the stream knows a better one than the call's error."""


def run(
    stream: ResumableStream[Answer, Item], method: Callable[..., Call[Answer]], on_reconnect: OnReconnect | None = None
) -> Generator[Item]:
    """Yields the stream's items, over as many attempts as `stream.reconnect` permits.

    Calls `on_reconnect` before each further attempt. Raises CallError, and what the stream raises.
    """
    while True:
        try:
            with closing(_attempt(stream, method)) as items:
                yield from items
        except CallError as error:
            time.sleep(stream.reconnect.delay_after(error, on_reconnect))
        else:
            return


def _attempt(stream: ResumableStream[Answer, Item], method: Callable[..., Call[Answer]]) -> Generator[Item]:
    batches: queue.SimpleQueue[Iterable[Message] | None] = queue.SimpleQueue()
    batches.put(stream.begin())
    requests = chain.from_iterable(iter(batches.get, None))
    with closing(_Answers(stream.call(method, requests), stream.reconnect)) as answers:
        try:
            for answer in answers:
                if (item := stream.received(answer)) is not None:
                    yield item
                batches.put(stream.requests())
                if stream.upload_complete:
                    batches.put(None)
            stream.ended()
        except CallError as error:
            stream.failed(error)
            raise
        finally:
            batches.put(None)


async def run_async(
    stream: ResumableStream[Answer, Item],
    method: Callable[..., AsyncCall[Answer]],
    on_reconnect: OnReconnect | None = None,
) -> AsyncGenerator[Item]:
    """Does the same as `run`, for asyncio."""
    while True:
        try:
            async with aclosing(_attempt_async(stream, method)) as items:
                async for item in items:
                    yield item
        except CallError as error:
            await asyncio.sleep(stream.reconnect.delay_after(error, on_reconnect))
        else:
            return


async def _attempt_async(
    stream: ResumableStream[Answer, Item], method: Callable[..., AsyncCall[Answer]]
) -> AsyncGenerator[Item]:
    batches: asyncio.Queue[Iterable[Message] | None] = asyncio.Queue()
    batches.put_nowait(stream.begin())
    async with aclosing(_AsyncAnswers(stream.call(method, _joined(batches)), stream.reconnect)) as answers:
        try:
            async for answer in answers:
                if (item := stream.received(answer)) is not None:
                    yield item
                batches.put_nowait(stream.requests())
                if stream.upload_complete:
                    batches.put_nowait(None)
            stream.ended()
        except CallError as error:
            stream.failed(error)
            raise
        finally:
            batches.put_nowait(None)


async def _joined(batches: asyncio.Queue[Iterable[Message] | None]) -> AsyncIterator[Message]:
    while (batch := await batches.get()) is not None:
        for request in batch:
            yield request


class _Answers(Generic[Answer]):
    """The answers of one attempt. Raises DeadlineExceededError if one takes longer than `reconnect` permits.

    gRPC's blocking iteration has no timeout, so a thread cancels the call at the deadline.
    """

    def __init__(self, call: Call[Answer], reconnect: Reconnect) -> None:
        self._call = call
        self._reconnect = reconnect
        self._deadline = math.inf
        self._timed_out = False
        self._closed = threading.Event()
        reconnect.begin_attempt()
        threading.Thread(target=self._cancel_at_deadline, name="vsync-stream-watchdog", daemon=True).start()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Answer:
        limit = self._reconnect.begin_wait()
        self._deadline = time.monotonic() + limit
        try:
            return next(self._call)
        except CallError as error:
            if self._timed_out:
                raise message_timeout(limit) from error
            raise
        finally:
            self._deadline = math.inf
            self._reconnect.end_wait()

    def close(self) -> None:
        self._closed.set()
        self._call.cancel()

    def _cancel_at_deadline(self) -> None:
        while not self._closed.wait(_WATCHDOG_INTERVAL_S):
            if time.monotonic() >= self._deadline:
                self._timed_out = True
                self._call.cancel()
                return


class _AsyncAnswers(Generic[Answer]):
    """Does the same as _Answers, for asyncio."""

    def __init__(self, call: AsyncCall[Answer], reconnect: Reconnect) -> None:
        self._call = call
        self._answers = aiter(call)
        self._reconnect = reconnect
        reconnect.begin_attempt()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Answer:
        limit = self._reconnect.begin_wait()
        try:
            async with asyncio.timeout(None if math.isinf(limit) else limit):
                return await anext(self._answers)
        except TimeoutError as error:
            raise message_timeout(limit) from error
        finally:
            self._reconnect.end_wait()

    async def aclose(self) -> None:
        self._call.cancel()
