"""Converts errors to google.rpc.Status (AIP-193). Only this module does so; the text of foreign errors never reaches a
caller. A status has at most 4 KiB: larger trailers break Java clients.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

from vsyncd.core.context import CORRELATION_ID_HEADER, RequestContext
from vsyncd.core.errors import Internal, QueryTimeout, ServiceError
from vsyncd.observability.logs import logger
from vsyncd.transport.draining import Drain, ShuttingDown
from vsyncd.transport.pipeline import Handler, Method
from vsyncd.transport.streaming import ClientGone

# Time to send an error, in general and during shutdown. It queues behind earlier responses: a client that receives
# nothing would keep the call open forever.
_SEND_TIMEOUT_S: Final = 5.0
_SHUTDOWN_SEND_TIMEOUT_S: Final = 1.0

DOMAIN: Final = "vsyncd"
MAX_BYTES: Final = 4096
MAX_VIOLATIONS: Final = 20

_log = logger(__name__)

# Converts an error of a library (psycopg) to a ServiceError, or returns None for an unknown error.
TranslateError = Callable[[Exception], ServiceError | None]


class ErrorMapping:
    """Answers with google.rpc.Status for every error of a handler, unless the client no longer receives."""

    def __init__(self, drain: Drain, *, translate: TranslateError) -> None:
        self._drain = drain
        self._translate = translate

    def wrap(self, method: Method, handler: Handler) -> Handler:  # noqa: ARG002  the same for every method
        async def map_errors(request: Any, context: RequestContext) -> Any:
            try:
                return await handler(request, context)
            except grpc.aio.AbortError:
                context.code = _sent_code(context)
                raise
            except ClientGone as error:
                raise asyncio.CancelledError from error
            except (asyncio.CancelledError, Exception) as error:
                is_cancelled = _is_cancelled()
                if is_cancelled and isinstance(error, asyncio.CancelledError):
                    raise
                service_error = self._to_service_error(error)
                if is_cancelled:
                    raise asyncio.CancelledError from error
                if context.servicer_context.done():  # the handler has aborted the call itself
                    context.code = _sent_code(context)
                    raise asyncio.CancelledError from error
            context.code, context.reason = service_error.code, service_error.reason
            aborting = send_error(
                context.servicer_context, service_error, (CORRELATION_ID_HEADER, context.correlation_id)
            )
            try:
                await self._drain.unless_begun(aborting, timeout=_SEND_TIMEOUT_S, grace=_SHUTDOWN_SEND_TIMEOUT_S)
            except (TimeoutError, ShuttingDown):
                raise asyncio.CancelledError from None
            return None

        return map_errors

    def _to_service_error(self, error: BaseException) -> ServiceError:
        if isinstance(error, ServiceError):
            translated = error
        elif isinstance(error, TimeoutError):
            translated = QueryTimeout()
        else:
            translated = (self._translate(error) if isinstance(error, Exception) else None) or Internal()
        if isinstance(translated, Internal):
            _log.error("internal error", exc_info=error.__cause__ or error, **translated.log_fields)
        return translated


async def send_error(servicer_context: Any, error: ServiceError, *trailing: tuple[str, str]) -> None:
    """Answers a call with an error. Raises grpc.aio.AbortError."""
    details = ("grpc-status-details-bin", status_of(error).SerializeToString())
    await servicer_context.abort(error.code, error.message, (*trailing, details))


def _is_cancelled() -> bool:
    """Returns whether gRPC cancelled the call because the client is gone. The error may be a consequence.

    A CancelledError alone does not prove that: a task that the handler awaits may have been cancelled. gRPC would not
    answer such a call.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _sent_code(context: RequestContext) -> StatusCode:
    """Returns the code with which the handler has aborted the call."""
    value = context.servicer_context.code()
    return next((code for code in StatusCode if value in {code, code.value[0]}), StatusCode.UNKNOWN)


def status_of(error: ServiceError) -> status_pb2.Status:
    """Returns the status of an error: ErrorInfo, and BadRequest and RetryInfo if it has violations or `retry_after`."""
    violations = error.violations[:MAX_VIOLATIONS]
    status = _assemble(error, len(violations))
    while status.ByteSize() > MAX_BYTES and violations:
        violations = violations[:-1]
        status = _assemble(error, len(violations))
    return status


def _assemble(error: ServiceError, violations: int) -> status_pb2.Status:
    metadata = dict(error.metadata)
    if error.violations:
        metadata["violations_total"] = str(len(error.violations))
    details: list[error_details_pb2.ErrorInfo | error_details_pb2.BadRequest | error_details_pb2.RetryInfo] = [
        error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)
    ]
    if error.violations:
        details.append(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(field=field, description=description)
                    for field, description in error.violations[:violations]
                ]
            )
        )
    if error.retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(error.retry_after * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=error.code.value[0], message=error.message)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status
