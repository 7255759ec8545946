"""The way of a call through the interceptors, put together once a method when the server is built.

grpc.aio asks its own interceptors anew at every call. Here each method's handler is wrapped when it is registered, so
that a call pays for what the interceptors do, not for finding them.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from vsyncd.call import Call
from vsyncd.errors import DeadlineExceeded, InvalidArgument

# A request (or an iterator of requests) and the call, to a response (None when the responses were streamed).
Handler = Callable[[Any, Call], Awaitable[Any]]
MethodHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # generic in its stubs alone


@dataclass(frozen=True, slots=True)
class Method:
    """A method that is served. `name` is the full one: vsync.v1.CidService/CreateCid."""

    name: str
    request_streaming: bool
    response_streaming: bool

    @property
    def unary(self) -> bool:
        """One request, one response."""
        return not (self.request_streaming or self.response_streaming)

    @property
    def is_health(self) -> bool:
        """Answers probes: never shed, never given a deadline of ours."""
        return self.name.startswith(("vsync.health.", "grpc.health."))


class Interceptor(Protocol):
    """Wraps the handler of a method; leaves it as it is when the method is none of its business."""

    def wrap(self, method: Method, handler: Handler) -> Handler:
        """The handler to call instead."""
        ...


class Malformed:
    """What stands for a request that could not be read."""


MALFORMED = Malformed()


class Registry:
    """Stands in for the server in the generated `add_..._to_server` functions: wraps each handler, then registers."""

    def __init__(self, server: grpc.aio.Server, interceptors: Sequence[Interceptor], *, stall_timeout: float) -> None:
        """`stall_timeout`: seconds after which a stream whose reader takes nothing is ended."""
        self._server = server
        self._stall_timeout = stall_timeout
        self._interceptors = tuple(interceptors)
        self.services: list[str] = []

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Generated code announces each service here too, without the methods' names: nothing to wrap, so ignored."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, MethodHandler]) -> None:
        """Called by generated code with every method of a service."""
        self.services.append(service)
        wrapped = {name: self._wrap(f"{service}/{name}", handler) for name, handler in handlers.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, wrapped),))

    def _wrap(self, name: str, original: MethodHandler) -> MethodHandler:
        method = Method(name, bool(original.request_streaming), bool(original.response_streaming))
        handler = _innermost(original, self._stall_timeout)
        for interceptor in reversed(self._interceptors):
            handler = interceptor.wrap(method, handler)

        async def serve(request: Any, context: Any) -> Any:
            return await handler(request, Call(method=name, context=context))

        constructor = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[method.request_streaming, method.response_streaming]
        return constructor(
            serve,
            request_deserializer=_tolerant(original.request_deserializer),
            response_serializer=original.response_serializer,
        )


def _tolerant(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    """grpc answers INTERNAL for a request that is not protobuf, or whose text is not UTF-8; the caller is to blame."""

    def read(data: bytes) -> Any:
        try:
            return deserialize(data) if deserialize else data
        except DecodeError:
            return MALFORMED

    return read


def _malformed() -> InvalidArgument:
    return InvalidArgument(
        "MALFORMED_REQUEST", "The request is not a valid protobuf message, or its text is not UTF-8."
    )


def _innermost(original: MethodHandler, stall_timeout: float) -> Handler:
    """The service's own method, behind one form for all four kinds."""
    # Annotated as threaded servers have them; ours are coroutines and async generators.
    method: Any = original.unary_unary or original.unary_stream or original.stream_unary or original.stream_stream

    async def checked(requests: AsyncIterable[Any]) -> AsyncIterable[Any]:
        async for request in requests:
            if request is MALFORMED:
                raise _malformed()
            yield request

    async def handle(request: Any, call: Call) -> Any:
        if original.request_streaming:
            request = checked(request)
        elif request is MALFORMED:
            raise _malformed()
        if not original.response_streaming:
            return await method(request, call.context)
        async with contextlib.aclosing(method(request, call.context)) as responses:
            async for response in responses:
                await _write(call, response, stall_timeout)
        return None

    return handle


async def _write(call: Call, response: Any, stall_timeout: float) -> None:
    try:
        async with asyncio.timeout(stall_timeout):
            await call.context.write(response)
    except TimeoutError as error:
        raise DeadlineExceeded("STREAM_STALLED", "The reader took nothing for too long.") from error
    except grpc.aio.InternalError as error:
        # The reader is gone; gRPC says so by cancelling the call as well, sooner or later.
        raise asyncio.CancelledError from error
