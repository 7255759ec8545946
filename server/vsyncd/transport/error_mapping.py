"""Converts errors to answers. Only this module does so; the text of foreign errors never reaches a caller."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import grpc
from grpc import StatusCode

from vsyncd.core.context import RequestContext
from vsyncd.core.errors import Internal, QueryTimeout, ServiceError
from vsyncd.observability.logs import logger
from vsyncd.transport.correlation import CORRELATION_ID
from vsyncd.transport.draining import Drain, ShuttingDown
from vsyncd.transport.error_details import status_of
from vsyncd.transport.pipeline import Handler, Method
from vsyncd.transport.streaming import ClientGone

# Time to send an error, in general and during shutdown. It queues behind earlier responses: a client that receives
# nothing would keep the call open forever.
_SEND_TIMEOUT_S: Final = 5.0
_SHUTDOWN_SEND_TIMEOUT_S: Final = 1.0

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
            status = status_of(service_error)
            aborting = context.servicer_context.abort(
                service_error.code,
                service_error.message,
                (
                    (CORRELATION_ID, context.correlation_id),
                    ("grpc-status-details-bin", status.SerializeToString()),
                ),
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
