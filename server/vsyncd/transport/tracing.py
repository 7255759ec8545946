"""Spans of calls, which continue the caller's trace (W3C Trace Context, or as OTEL_PROPAGATORS says)."""

from functools import partial
from typing import Any

from grpc import StatusCode

from vsyncd.core.context import RequestContext
from vsyncd.observability.tracing import TRACES
from vsyncd.transport.pipeline import Handler, Method


class Tracing:
    """Creates a span for each call except health calls, if tracing is enabled."""

    def wrap(self, method: Method, handler: Handler) -> Handler:
        spans = TRACES.spans
        if spans is None or method.is_health:
            return handler

        async def trace(request: Any, context: RequestContext) -> Any:
            with spans.call(method.name, context.metadata, context.correlation_id, partial(_code, context)):
                return await handler(request, context)

        return trace


def _code(context: RequestContext) -> int:
    """Returns the code, which the next interceptor (Telemetry) has set."""
    code: int = (context.code or StatusCode.UNKNOWN).value[0]
    return code
