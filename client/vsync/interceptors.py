"""The interceptors that give each call what `calls` prepares, and raise typed exceptions; for both kinds of channel."""
# ruff: noqa: ANN401 - gRPC's interceptor API is not generic in the messages; the stubs give them their types

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, NamedTuple

import grpc
from grpc import aio

from vsync.calls import CallDefaults, PreparedCall, prepare


class _Details(NamedTuple):
    """The synchronous API takes any object with these attributes (grpc.ClientCallDetails has no constructor)."""

    method: str
    timeout: float | None
    metadata: Any
    credentials: Any
    wait_for_ready: bool | None
    compression: Any


class SyncInterceptor(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """For grpc.Channel."""

    def __init__(self, defaults: CallDefaults) -> None:
        self._defaults = defaults

    def intercept_unary_unary(self, continuation: Callable[..., Any], client_call_details: Any, request: Any) -> Any:
        """A call with one answer; blocking, or as a future."""
        prepared, details = self._prepare(client_call_details, request, timeout=self._defaults.timeout)
        call = continuation(details, prepared.request)
        if not call.done():
            return _TypedCall(call, prepared, self._defaults)
        if isinstance(call, grpc.RpcError) and call.code() is not grpc.StatusCode.OK:
            raise prepared.error(call) from call
        self._defaults.note(call.trailing_metadata())
        return call

    def intercept_unary_stream(self, continuation: Callable[..., Any], client_call_details: Any, request: Any) -> Any:
        """A call that is answered by a stream."""
        prepared, details = self._prepare(client_call_details, request, timeout=None)
        return _TypedCall(continuation(details, prepared.request), prepared, self._defaults)

    def intercept_stream_stream(
        self, continuation: Callable[..., Any], client_call_details: Any, request_iterator: Any
    ) -> Any:
        """A stream either way."""
        prepared, details = self._prepare(client_call_details, request_iterator, timeout=None)
        return _TypedCall(continuation(details, prepared.request), prepared, self._defaults)

    def _prepare(self, details: Any, request: Any, *, timeout: float | None) -> tuple[PreparedCall, _Details]:
        prepared = prepare(request, details.metadata, self._defaults)
        return prepared, _Details(
            method=details.method,
            timeout=timeout if details.timeout is None else details.timeout,
            metadata=prepared.metadata,
            credentials=details.credentials,
            wait_for_ready=details.wait_for_ready,
            compression=details.compression,
        )


class _TypedCall:
    """A future or a stream of gRPC's, whose errors are ours. Everything else is the call's own."""

    def __init__(self, call: Any, prepared: PreparedCall, defaults: CallDefaults) -> None:
        self._call = call
        self._prepared = prepared
        self._defaults = defaults

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            return next(self._call)
        except grpc.RpcError as error:
            raise self._prepared.error(error) from error
        except StopIteration:
            self._defaults.note(self._call.trailing_metadata())
            raise

    def result(self, timeout: float | None = None) -> Any:
        """Waits for the answer, at most timeout seconds (grpc.FutureTimeoutError)."""
        try:
            result = self._call.result(timeout)
        except grpc.RpcError as error:
            raise self._prepared.error(error) from error
        self._defaults.note(self._call.trailing_metadata())
        return result

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Waits for the end of the call and gives its error, None after a success."""
        error = self._call.exception(timeout)
        return self._prepared.error(error) if isinstance(error, grpc.RpcError) else error


class _AsyncInterceptor:
    def __init__(self, defaults: CallDefaults) -> None:
        self._defaults = defaults

    def _prepare(
        self, details: aio.ClientCallDetails, request: Any, *, timeout: float | None
    ) -> tuple[PreparedCall, aio.ClientCallDetails]:
        prepared = prepare(request, details.metadata, self._defaults)
        return prepared, aio.ClientCallDetails(
            method=details.method,
            timeout=timeout if details.timeout is None else details.timeout,
            metadata=aio.Metadata(*prepared.metadata),
            credentials=details.credentials,
            wait_for_ready=details.wait_for_ready,
        )


class AsyncUnaryUnary(_AsyncInterceptor, aio.UnaryUnaryClientInterceptor):
    """For grpc.aio.Channel: a call with one answer."""

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Waits for the answer, so that an error can be raised as ours; the call itself is handed on."""
        prepared, details = self._prepare(client_call_details, request, timeout=self._defaults.timeout)
        call = await continuation(details, prepared.request)
        try:
            await call
        except aio.AioRpcError as error:
            raise prepared.error(error) from error
        self._defaults.note(await call.trailing_metadata())
        return call


class AsyncUnaryStream(_AsyncInterceptor, aio.UnaryStreamClientInterceptor):
    """For grpc.aio.Channel: a call that is answered by a stream."""

    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Hands on the stream, its errors ours."""
        prepared, details = self._prepare(client_call_details, request, timeout=None)
        return _typed_answers(await continuation(details, prepared.request), prepared, self._defaults)


class AsyncStreamStream(_AsyncInterceptor, aio.StreamStreamClientInterceptor):
    """For grpc.aio.Channel: a stream either way."""

    async def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        """Hands on the stream, its errors ours."""
        prepared, details = self._prepare(client_call_details, request_iterator, timeout=None)
        return _typed_answers(await continuation(details, prepared.request), prepared, self._defaults)


async def _typed_answers(call: Any, prepared: PreparedCall, defaults: CallDefaults) -> AsyncIterator[Any]:
    try:
        async for answer in call:
            yield answer
    except aio.AioRpcError as error:
        raise prepared.error(error) from error
    defaults.note(await call.trailing_metadata())


def async_interceptors(defaults: CallDefaults) -> list[aio.ClientInterceptor]:
    """One of each kind: grpc.aio registers an interceptor for the first kind it finds only."""
    return [AsyncUnaryUnary(defaults), AsyncUnaryStream(defaults), AsyncStreamStream(defaults)]
