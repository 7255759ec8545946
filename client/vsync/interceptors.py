"""Interceptors for both kinds of channel. They give each call a deadline, a correlation id, a request_id and the token
of the client's own writes, and raise typed exceptions."""
# ruff: noqa: ANN401 - gRPC's interceptor API is not generic in the messages; the stubs give them their types

import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import grpc
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from grpc import aio

from vsync.consistency import CONSISTENCY_TOKEN_KEY, OwnWrites
from vsync.correlation_id import current_correlation_id
from vsync.errors import CORRELATION_KEY, CallError, call_error
from vsync.token import AUTHORIZATION_KEY, Token


@dataclass(frozen=True, kw_only=True)
class CallDefaults:
    """The defaults of a client's calls."""

    timeout: float | None
    """Seconds, for calls with one response. Streams have no deadline."""
    correlation_id: str | None
    own_writes: OwnWrites
    token: Token | None = None


class _PreparedCall(NamedTuple):
    """The values that a call sends, and the conversion of its error."""

    request: Any
    metadata: tuple[tuple[str, str | bytes], ...]
    correlation_id: str
    request_id: str

    def error(self, cause: grpc.RpcError) -> CallError:
        """Returns the typed exception for a failed call. Raise it from its cause."""
        # Both kinds of channel raise RpcErrors that are Calls; the base class does not say so.
        call: Any = cause
        return call_error(
            call.code(),
            call.details() or "",
            call.trailing_metadata() or (),
            correlation_id=self.correlation_id,
            request_id=self.request_id,
        )


def _prepare(
    request: object, metadata: Iterable[tuple[str, str | bytes]] | None, defaults: CallDefaults
) -> _PreparedCall:
    """Gives a call its correlation id and, if its request has an empty request_id, a new UUID.

    The caller's message remains unchanged, because sending it again is another request. The correlation id is that of
    the metadata, or of the enclosing `correlation` block, or of the client, or a new one. A call without a request_id
    sends the token of the client's writes.
    """
    sent = tuple(metadata or ())
    correlation_id = next((value for key, value in sent if key == CORRELATION_KEY and isinstance(value, str)), None)
    if correlation_id is None:
        correlation_id = current_correlation_id() or defaults.correlation_id or str(uuid.uuid4())
        sent = (*sent, (CORRELATION_KEY, correlation_id))
    request_id = ""
    if isinstance(request, Message) and _has_request_id(request.DESCRIPTOR):
        copy: Any = type(request)()
        copy.CopyFrom(request)
        copy.request_id = request_id = copy.request_id or str(uuid.uuid4())
        request = copy
    elif (token := defaults.own_writes.token) and all(key != CONSISTENCY_TOKEN_KEY for key, _ in sent):
        sent = (*sent, (CONSISTENCY_TOKEN_KEY, token))
    if defaults.token is not None and all(key != AUTHORIZATION_KEY for key, _ in sent):
        sent = (*sent, (AUTHORIZATION_KEY, defaults.token.refresh()))
    return _PreparedCall(request, sent, correlation_id, request_id)


@cache
def _has_request_id(message: Descriptor) -> bool:
    return "request_id" in message.fields_by_name


class _Details(NamedTuple):
    """The synchronous API accepts any object with these attributes (grpc.ClientCallDetails has no constructor)."""

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
    """The interceptor of a grpc.Channel."""

    def __init__(self, defaults: CallDefaults) -> None:
        self._defaults = defaults

    def intercept_unary_unary(self, continuation: Callable[..., Any], client_call_details: Any, request: Any) -> Any:
        """Makes a call with one response, blocking or as a future."""
        prepared, details = self._prepare(client_call_details, request, timeout=self._defaults.timeout)
        call = continuation(details, prepared.request)
        if not call.done():
            return _TypedCall(call, prepared, self._defaults.own_writes)
        if isinstance(call, grpc.RpcError) and call.code() is not grpc.StatusCode.OK:
            raise prepared.error(call) from call
        self._defaults.own_writes.note(call.trailing_metadata())
        return call

    def intercept_unary_stream(self, continuation: Callable[..., Any], client_call_details: Any, request: Any) -> Any:
        """Makes a call with a response stream."""
        prepared, details = self._prepare(client_call_details, request, timeout=None)
        return _TypedCall(continuation(details, prepared.request), prepared, self._defaults.own_writes)

    intercept_stream_stream = intercept_unary_stream  # type: ignore[assignment]  # gRPC passes arguments by position

    def _prepare(self, details: Any, request: Any, *, timeout: float | None) -> tuple[_PreparedCall, _Details]:
        prepared = _prepare(request, details.metadata, self._defaults)
        return prepared, _Details(
            method=details.method,
            timeout=timeout if details.timeout is None else details.timeout,
            metadata=prepared.metadata,
            credentials=details.credentials,
            wait_for_ready=details.wait_for_ready,
            compression=details.compression,
        )


class _TypedCall:
    """A future or a stream of gRPC that raises typed errors. Its other attributes are those of gRPC's call."""

    def __init__(self, call: Any, prepared: _PreparedCall, own_writes: OwnWrites) -> None:
        self._call = call
        self._prepared = prepared
        self._own_writes = own_writes

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
            self._own_writes.note(self._call.trailing_metadata())
            raise

    def result(self, timeout: float | None = None) -> Any:
        """Waits at most `timeout` seconds for the response. Raises CallError and grpc.FutureTimeoutError."""
        try:
            result = self._call.result(timeout)
        except grpc.RpcError as error:
            raise self._prepared.error(error) from error
        self._own_writes.note(self._call.trailing_metadata())
        return result

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Waits for the end of the call. Returns its error, or None after a success."""
        error = self._call.exception(timeout)
        return self._prepared.error(error) if isinstance(error, grpc.RpcError) else error


class _AsyncInterceptor:
    def __init__(self, defaults: CallDefaults) -> None:
        self._defaults = defaults

    def _prepare(
        self, details: aio.ClientCallDetails, request: Any, *, timeout: float | None
    ) -> tuple[_PreparedCall, aio.ClientCallDetails]:
        prepared = _prepare(request, details.metadata, self._defaults)
        return prepared, aio.ClientCallDetails(
            method=details.method,
            timeout=timeout if details.timeout is None else details.timeout,
            metadata=aio.Metadata(*prepared.metadata),
            credentials=details.credentials,
            wait_for_ready=details.wait_for_ready,
        )


class _AsyncUnaryUnary(_AsyncInterceptor, aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Waits for the response, because its error can only be replaced here. Returns the call."""
        prepared, details = self._prepare(client_call_details, request, timeout=self._defaults.timeout)
        call = await continuation(details, prepared.request)
        try:
            await call
        except aio.AioRpcError as error:
            raise prepared.error(error) from error
        self._defaults.own_writes.note(await call.trailing_metadata())
        return call


class _AsyncUnaryStream(_AsyncInterceptor, aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Returns the response stream, which raises typed errors."""
        prepared, details = self._prepare(client_call_details, request, timeout=None)
        return _typed_responses(await continuation(details, prepared.request), prepared, self._defaults.own_writes)


class _AsyncStreamStream(_AsyncInterceptor, aio.StreamStreamClientInterceptor):
    intercept_stream_stream = _AsyncUnaryStream.intercept_unary_stream  # type: ignore[assignment]  # as above


async def _typed_responses(call: Any, prepared: _PreparedCall, own_writes: OwnWrites) -> AsyncIterator[Any]:
    try:
        async for response in call:
            yield response
    except aio.AioRpcError as error:
        raise prepared.error(error) from error
    own_writes.note(await call.trailing_metadata())


def async_interceptors(defaults: CallDefaults) -> list[aio.ClientInterceptor]:
    """Returns one interceptor of each kind, because grpc.aio registers an interceptor only for its first kind."""
    return [_AsyncUnaryUnary(defaults), _AsyncUnaryStream(defaults), _AsyncStreamStream(defaults)]
