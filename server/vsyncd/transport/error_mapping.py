"""Errors become answers here, and only here. Nothing of an error that is not ours reaches a caller."""

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
from vsyncd.transport.streaming import ReaderGone

# Seconds that an error gets to be taken, and when the server shuts down. It stands behind what was sent before, and a
# reader who takes nothing would hold the call for ever.
_LAST_WORD: Final = 5.0
_LAST_WORD_OF_ALL: Final = 1.0

_log = logger(__name__)


# Maps an error of a library (psycopg) to one of ours; None: not an error that it knows.
TranslateError = Callable[[Exception], ServiceError | None]


class ErrorMapping:
    """Answers with google.rpc.Status for every error of a handler; ends the call without it when nobody takes it."""

    def __init__(self, drain: Drain, *, translate: TranslateError) -> None:
        self._drain = drain
        self._translate = translate

    def wrap(self, method: Method, handler: Handler) -> Handler:  # noqa: ARG002  every method alike
        """See Interceptor."""

        async def map_errors(request: Any, context: RequestContext) -> Any:
            try:
                return await handler(request, context)
            except grpc.aio.AbortError:
                context.code = _sent_code(context)
                raise
            except ReaderGone as error:
                raise asyncio.CancelledError from error
            except (asyncio.CancelledError, Exception) as error:
                is_cancelled = _is_cancelled()
                if is_cancelled and isinstance(error, asyncio.CancelledError):
                    raise
                failure = self._service_error(error)
                if is_cancelled:
                    raise asyncio.CancelledError from error
                if context.servicer_context.done():  # the handler has aborted the call itself
                    context.code = _sent_code(context)
                    raise asyncio.CancelledError from error
            context.code, context.reason = failure.code, failure.reason
            status = status_of(failure)
            aborting = context.servicer_context.abort(
                failure.code,
                failure.message,
                (
                    (CORRELATION_ID, context.correlation_id),
                    ("grpc-status-details-bin", status.SerializeToString()),
                ),
            )
            try:
                await self._drain.unless_begun(aborting, within=_LAST_WORD, grace=_LAST_WORD_OF_ALL)
            except (TimeoutError, ShuttingDown):
                raise asyncio.CancelledError from None
            return None

        return map_errors

    def _service_error(self, error: BaseException) -> ServiceError:
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
    """Whether gRPC cancelled the call: the caller is gone, and the error may be a consequence.

    A CancelledError alone does not say so: a task that the handler awaited may have been cancelled. gRPC would not
    answer such a call at all.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _sent_code(context: RequestContext) -> StatusCode:
    """The code that the handler has aborted the call with."""
    value = context.servicer_context.code()
    return next((code for code in StatusCode if value in {code, code.value[0]}), StatusCode.UNKNOWN)
