"""The order of the interceptors, and the smallest ones: correlation, tracing and deadline."""

import asyncio
from functools import partial
from secrets import token_hex
from typing import Any

from grpc import StatusCode
from vsync.correlation_id import is_correlation_id

from vsyncd.access.control import AccessControl
from vsyncd.access.denials import Denials
from vsyncd.config import Settings
from vsyncd.core.context import (
    CONSISTENCY_TOKEN_HEADER,
    CORRELATION_ID_HEADER,
    RequestContext,
    reset_current_context,
    set_current_context,
)
from vsyncd.observability.logs import Sample, logger
from vsyncd.observability.tracing import TRACES
from vsyncd.transport.access import Authentication, Authorization
from vsyncd.transport.admission import Admission
from vsyncd.transport.draining import Drain
from vsyncd.transport.error_mapping import ErrorMapping, TranslateError
from vsyncd.transport.open_calls import OpenCalls, max_open_calls
from vsyncd.transport.pipeline import Handler, Interceptor, Method
from vsyncd.transport.quota import Quota
from vsyncd.transport.telemetry import Telemetry

_log = logger(__name__)


def interceptors(
    settings: Settings,
    drain: Drain,
    translate: TranslateError,
    access: AccessControl,
    denials: Denials,
) -> tuple[Interceptor, ...]:
    """Returns the interceptors, outermost first. Load is shed before credentials are checked."""
    return (
        Correlation(max_logged_per_second=settings.log_failures_per_second),
        Tracing(trust_incoming=settings.trace_trust_incoming),
        Telemetry(max_failures_per_second=settings.log_failures_per_second),
        ErrorMapping(drain, translate=translate),
        admission(settings, drain),
        Authentication(access),
        Authorization(access, denials),
        Quota(max_calls=settings.max_calls_per_principal, max_streams=settings.max_streams_per_principal),
        Deadline(default=settings.grpc_default_deadline),
    )


def admission(settings: Settings, drain: Drain) -> Admission:
    return Admission(
        max_calls=settings.max_concurrent_calls,
        max_bytes=settings.max_concurrent_bytes,
        drain=drain,
        exempt=OpenCalls(max_open_calls(settings)),
    )


class Correlation:
    """Sets the metadata and the correlation id of the context, and makes it the current context.

    Creates a correlation id if none is given, or if the given one is not accepted: free text could be personal data.
    Returns the id, and the consistency token of a write, in the trailing metadata. `max_logged_per_second` limits the
    log events about replaced ids of one method.
    """

    def __init__(self, *, max_logged_per_second: int) -> None:
        self._sample = Sample(max_logged_per_second)

    def wrap(self, method: Method, handler: Handler) -> Handler:  # noqa: ARG002  the same for every method
        async def correlate(request: Any, context: RequestContext) -> Any:
            context.metadata = dict(context.servicer_context.invocation_metadata() or ())
            given = context.metadata.get(CORRELATION_ID_HEADER, "")
            accepted = given if isinstance(given, str) and is_correlation_id(given) else ""
            context.correlation_id = accepted or token_hex(16)
            context.servicer_context.set_trailing_metadata(((CORRELATION_ID_HEADER, context.correlation_id),))
            token = set_current_context(context)
            try:
                if given and not accepted:
                    self._log_replacement(context)
                response = await handler(request, context)
                if context.token:
                    context.servicer_context.set_trailing_metadata(
                        ((CORRELATION_ID_HEADER, context.correlation_id), (CONSISTENCY_TOKEN_HEADER, context.token))
                    )
                return response
            finally:
                reset_current_context(token)

        return correlate

    def _log_replacement(self, context: RequestContext) -> None:
        """Logs that the caller's id was replaced, without this id."""
        left_out = self._sample.take(context.method)
        if left_out is not None:
            _log.info("correlation id replaced", **({"left_out": left_out} if left_out else {}))


class Tracing:
    """Creates a span for each call except health calls, if tracing is enabled.

    It continues the caller's trace (W3C Trace Context, or as OTEL_PROPAGATORS says). Unless the callers are trusted, it
    takes nothing but the ids and flags of the parent span from them.
    """

    def __init__(self, *, trust_incoming: bool) -> None:
        self._trust_incoming = trust_incoming

    def wrap(self, method: Method, handler: Handler) -> Handler:
        spans = TRACES.spans
        if spans is None or method.is_exempt:
            return handler

        async def trace(request: Any, context: RequestContext) -> Any:
            metadata = {key: value for key, value in context.metadata.items() if isinstance(value, str)}
            parent = spans.parent_of(metadata, trusted=self._trust_incoming)
            with spans.call(method.name, parent, context.correlation_id, partial(_code, context)):
                return await handler(request, context)

        return trace


def _code(context: RequestContext) -> int:
    """Returns the code, which the next interceptor (Telemetry) has set."""
    code: int = (context.code or StatusCode.UNKNOWN).value[0]
    return code


class Deadline:
    """Sets the deadline of a unary call, and cancels the handler when it has passed. Streams have their own limits.

    `default`: seconds for calls without a deadline. This is the innermost interceptor.
    """

    def __init__(self, *, default: float) -> None:
        self._default = default

    def wrap(self, method: Method, handler: Handler) -> Handler:
        if not method.unary or method.is_exempt:
            return handler

        async def limit(request: Any, context: RequestContext) -> Any:
            given = context.servicer_context.time_remaining()
            seconds = self._default if given is None else given
            context.deadline = asyncio.get_running_loop().time() + seconds
            async with asyncio.timeout_at(context.deadline):
                return await handler(request, context)

        return limit
