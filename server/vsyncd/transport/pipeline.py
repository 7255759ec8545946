"""The way of a call through the interceptors, put together once a method when the server is built.

grpc.aio asks its own interceptors anew at every call. Here each method's handler is wrapped when it is registered, so
that a call pays for what the interceptors do, not for finding them.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import grpc

from vsyncd.core.context import RequestContext
from vsyncd.transport.draining import Drain
from vsyncd.transport.streaming import Streams, parse

# A request (or an iterator of requests), as bytes, and the call, to a response (None when the responses were streamed).
Handler = Callable[[Any, RequestContext], Awaitable[Any]]
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
    def kind(self) -> str:
        """Which of the four, as metrics name them."""
        if self.unary:
            return "unary"
        if self.request_streaming and self.response_streaming:
            return "bidi_stream"
        return "client_stream" if self.request_streaming else "server_stream"

    @property
    def is_health(self) -> bool:
        """Answers probes: never shed, never given a deadline of ours."""
        return self.name.startswith(("vsync.health.", "grpc.health."))


class Interceptor(Protocol):
    """Wraps the handler of a method; leaves it as it is when the method is none of its business."""

    def wrap(self, method: Method, handler: Handler) -> Handler:
        """The handler to call instead."""
        ...


class Registry:
    """Stands in for the server in the generated `add_..._to_server` functions: wraps each handler, then registers."""

    def __init__(
        self, server: grpc.aio.Server, interceptors: Sequence[Interceptor], *, drain: Drain, streams: Streams
    ) -> None:
        self._server = server
        self._drain = drain
        self._streams = streams
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
        handler = _innermost(original, self._streams)
        for interceptor in reversed(self._interceptors):
            handler = interceptor.wrap(method, handler)
        drain = self._drain

        async def serve(request: Any, servicer_context: Any) -> Any:
            return await drain.serve(handler, request, RequestContext(method=name, servicer_context=servicer_context))

        constructor = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[method.request_streaming, method.response_streaming]
        # No deserializer: the interceptors see bytes, so that one who is turned away costs no parsing.
        return constructor(serve, response_serializer=original.response_serializer)


def _innermost(original: MethodHandler, streams: Streams) -> Handler:
    """The service's own method, behind one form for all four kinds."""
    # Annotated as threaded servers have them; ours are coroutines and async generators.
    method: Any = original.unary_unary or original.unary_stream or original.stream_unary or original.stream_stream
    deserialize: Callable[[bytes], Any] = original.request_deserializer or bytes
    reads = bool(original.request_streaming)

    async def handle(request: Any, context: RequestContext) -> Any:
        message = streams.requests(request, deserialize) if reads else parse(deserialize, request)
        if original.response_streaming:
            return await streams.answer(method(message, context.servicer_context), context, reads=reads)
        return await method(message, context.servicer_context)

    return handle
