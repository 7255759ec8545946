"""Wraps the handler of each method in the interceptors when the service is registered.

grpc.aio's own interceptors are resolved at every call, which costs CPU time.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import grpc

from vsyncd.core.context import RequestContext
from vsyncd.transport.draining import Drain
from vsyncd.transport.streaming import Streams, parse

# Returns the request of a call that has only one, as bytes.
Receive = Callable[[Any], Awaitable[bytes]]
# Takes a request as bytes, or an iterator of requests. Returns the response, or None after streaming the responses.
Handler = Callable[[Any, RequestContext], Awaitable[Any]]
MethodHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # generic in its stubs alone


@dataclass(frozen=True, slots=True)
class Method:
    """A served method. `name` is the full name: vsync.v1.CidService/CreateCid."""

    name: str
    request_streaming: bool
    response_streaming: bool

    @property
    def unary(self) -> bool:
        """Whether it has one request and one response."""
        return not (self.request_streaming or self.response_streaming)

    @property
    def kind(self) -> str:
        if self.unary:
            return "unary"
        if self.request_streaming and self.response_streaming:
            return "bidi_stream"
        return "client_stream" if self.request_streaming else "server_stream"

    @property
    def is_exempt(self) -> bool:
        """Whether it answers probes or is reflection. Such calls are never rejected and have no default deadline."""
        return self.name.startswith(("vsync.health.", "grpc.health.", "grpc.reflection."))


class Interceptor(Protocol):
    """Adds one concern to the handlers of methods."""

    def wrap(self, method: Method, handler: Handler) -> Handler:
        """Returns the handler to call instead, or `handler` itself."""


class Registry:
    """Wraps and registers handlers. Takes the place of the server in the generated `add_..._to_server` functions."""

    def __init__(
        self,
        server: grpc.aio.Server,
        interceptors: Sequence[Interceptor],
        *,
        drain: Drain,
        streams: Streams,
        receive: Receive,
    ) -> None:
        self._server = server
        self._receive = receive
        self._drain = drain
        self._streams = streams
        self._interceptors = tuple(interceptors)
        self.services: list[str] = []

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Ignored: generated code also calls add_registered_method_handlers, with the names of the methods."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, MethodHandler]) -> None:
        self.services.append(service)
        wrapped = {name: self._wrap(f"{service}/{name}", handler) for name, handler in handlers.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, wrapped),))

    def _wrap(self, name: str, original: MethodHandler) -> MethodHandler:
        method = Method(name, bool(original.request_streaming), bool(original.response_streaming))
        handler = _innermost(original, self._streams)
        for interceptor in reversed(self._interceptors):
            handler = interceptor.wrap(method, handler)
        drain, receive = self._drain, self._receive

        async def serve(requests: Any, servicer_context: Any) -> Any:
            request = requests if method.request_streaming else await receive(servicer_context)
            return await drain.serve(handler, request, RequestContext(method=name, servicer_context=servicer_context))

        # The handler of a unary method would be called only after its request has arrived, which may be never.
        constructor = (
            grpc.stream_stream_rpc_method_handler if method.response_streaming else grpc.stream_unary_rpc_method_handler
        )
        # No deserializer: interceptors get bytes, so that a rejected request is not parsed.
        return constructor(serve, response_serializer=original.response_serializer)


def _innermost(original: MethodHandler, streams: Streams) -> Handler:
    """Returns the service's method as a handler."""
    # The stubs have the types of threaded servers; these are coroutines and async generators.
    method: Any = original.unary_unary or original.unary_stream or original.stream_unary or original.stream_stream
    deserialize: Callable[[bytes], Any] = original.request_deserializer or bytes
    reads = bool(original.request_streaming)

    async def handle(request: Any, context: RequestContext) -> Any:
        message = streams.requests(request, deserialize) if reads else parse(deserialize, request)
        if original.response_streaming:
            return await streams.answer(method(message, context.servicer_context), context, reads=reads)
        return await method(message, context.servicer_context)

    return handle
