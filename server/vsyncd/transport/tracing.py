"""A span for each call, which continues its caller's trace (W3C Trace Context, or what OTEL_PROPAGATORS says)."""

from functools import partial
from typing import Any

from grpc import StatusCode

from vsyncd.core.context import RequestContext
from vsyncd.observability.tracing import TRACES
from vsyncd.transport.pipeline import Handler, Method


class Tracing:
    """Makes a span for each call but the probes'. When nobody asks for spans, calls pass it by."""

    def wrap(self, method: Method, handler: Handler) -> Handler:
        """See Interceptor."""
        spans = TRACES.spans
        if spans is None or method.is_health:
            return handler

        async def trace(request: Any, context: RequestContext) -> Any:
            with spans.call(method.name, context.metadata, context.correlation_id, partial(_code, context)):
                return await handler(request, context)

        return trace


def _code(context: RequestContext) -> int:
    """Telemetry, the next interceptor, has set the code of every call that ended."""
    code: int = (context.code or StatusCode.UNKNOWN).value[0]
    return code
