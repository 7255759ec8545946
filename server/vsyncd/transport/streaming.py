"""Reads requests and sends responses of streams, with timeouts, until the server shuts down."""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

from vsyncd.core.context import RequestContext
from vsyncd.core.errors import DeadlineExceeded, InvalidArgument
from vsyncd.transport.draining import Drain, ShuttingDown

# The timeout of a message that is being sent when the server shuts down.
_SHUTDOWN_SEND_TIMEOUT_S: Final = 1.0
_END: Final = object()


class ClientGone(Exception):  # noqa: N818  a state of the connection, which is not reported
    """The client can no longer receive."""


def parse(deserialize: Callable[[bytes], Any], data: bytes) -> Any:
    """Parses a request. Raises InvalidArgument, where gRPC would answer INTERNAL."""
    try:
        return deserialize(data)
    except DecodeError as error:
        raise InvalidArgument(
            "MALFORMED_REQUEST", "The request is not a valid protobuf message, or its text is not UTF-8."
        ) from error


class Streams:
    """Reads and sends the messages of streams until `drain` begins.

    `idle_timeout`: seconds until the next request must arrive. `stall_timeout`: seconds until the client must have
    received a response.
    """

    def __init__(self, drain: Drain, *, idle_timeout: float, stall_timeout: float) -> None:
        self._drain = drain
        self._idle_timeout = idle_timeout
        self._stall_timeout = stall_timeout

    async def requests(self, messages: AsyncIterable[bytes], deserialize: Callable[[bytes], Any]) -> AsyncIterator[Any]:
        """Yields the requests of a stream. Raises ShuttingDown, and DeadlineExceeded (STREAM_STALLED) after
        `idle_timeout`.

        Without a timeout an idle stream would count as a call in flight forever, because it has no deadline.
        """
        waiting = aiter(messages)
        while (data := await self._next(waiting)) is not None:
            yield parse(deserialize, data)

    async def _next(self, messages: AsyncIterator[bytes]) -> bytes | None:
        try:
            return await self._drain.unless_begun(anext(messages, None), timeout=self._idle_timeout)
        except TimeoutError as error:
            raise DeadlineExceeded("STREAM_STALLED", "No request arrived in time.") from error

    async def answer(self, responses: AsyncGenerator[Any, None], context: RequestContext, *, reads: bool) -> None:
        """Sends the responses. Raises ShuttingDown after the current message.

        `reads`: the responses answer requests. The current request is then completed before the shutdown. Otherwise
        the next response is cancelled.
        """
        async with contextlib.aclosing(responses):
            while True:
                waiting = anext(responses, _END)
                response = await (waiting if reads else self._drain.unless_begun(waiting))
                if response is _END:
                    return
                await self._send(response, context)
                if context.count_sent is not None:
                    context.count_sent()
                if self._drain.begun:
                    raise ShuttingDown

    async def _send(self, response: Any, context: RequestContext) -> None:
        writing = context.servicer_context.write(response)
        try:
            await self._drain.unless_begun(writing, timeout=self._stall_timeout, grace=_SHUTDOWN_SEND_TIMEOUT_S)
        except TimeoutError as error:
            raise DeadlineExceeded("STREAM_STALLED", "The client did not receive the response in time.") from error
        except grpc.aio.InternalError as error:
            # gRPC also cancels the call later.
            raise ClientGone from error
