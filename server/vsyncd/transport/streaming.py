"""Messages in and out of a stream: each wait has an end, also when the server shuts down."""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

from vsyncd.core.context import RequestContext
from vsyncd.core.errors import DeadlineExceeded, InvalidArgument
from vsyncd.transport.draining import Drain, ShuttingDown

# Seconds that a message on its way gets when the server shuts down.
_LAST_WRITE: Final = 1.0
_END: Final = object()


class ReaderGone(Exception):  # noqa: N818  a state of the connection, which nobody is told of
    """The caller can receive nothing any more."""


def parse(deserialize: Callable[[bytes], Any], data: bytes) -> Any:
    """grpc would answer INTERNAL for what is not protobuf, or whose text is not UTF-8; the caller is to blame."""
    try:
        return deserialize(data)
    except DecodeError as error:
        raise InvalidArgument(
            "MALFORMED_REQUEST", "The request is not a valid protobuf message, or its text is not UTF-8."
        ) from error


class Streams:
    """Reads and answers streams until `drain` begins. `idle_timeout`: seconds that a message gets to come,
    `stall_timeout`: that one gets to be taken."""

    def __init__(self, drain: Drain, *, idle_timeout: float, stall_timeout: float) -> None:
        self._drain = drain
        self._idle_timeout = idle_timeout
        self._stall_timeout = stall_timeout

    async def requests(self, messages: AsyncIterable[bytes], deserialize: Callable[[bytes], Any]) -> AsyncIterator[Any]:
        """The requests of a stream. Raises ShuttingDown in place of the next one, and STREAM_STALLED when it does not
        come: a stream has no deadline, and would keep its place for ever."""
        waiting = aiter(messages)
        while (data := await self._next(waiting)) is not None:
            yield parse(deserialize, data)

    async def _next(self, messages: AsyncIterator[bytes]) -> bytes | None:
        try:
            return await self._drain.unless_begun(anext(messages, None), within=self._idle_timeout)
        except TimeoutError as error:
            raise DeadlineExceeded("STREAM_STALLED", "The next message did not come for too long.") from error

    async def answer(self, responses: AsyncGenerator[Any, None], context: RequestContext, *, reads: bool) -> None:
        """Send the responses. Raises ShuttingDown behind the message that is being sent.

        `reads`: they answer requests. Then what is under way is finished, and the end comes with the next request;
        otherwise they come from waiting or reading alone, which is cancelled.
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
            await self._drain.unless_begun(writing, within=self._stall_timeout, grace=_LAST_WRITE)
        except TimeoutError as error:
            raise DeadlineExceeded("STREAM_STALLED", "The reader took nothing for too long.") from error
        except grpc.aio.InternalError as error:
            # gRPC cancels the call as well, sooner or later.
            raise ReaderGone from error
