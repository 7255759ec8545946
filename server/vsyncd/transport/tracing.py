"""A span for each call, which continues its caller's trace (W3C Trace Context, or what OTEL_PROPAGATORS says)."""

from functools import partial
from typing import Any

from grpc import StatusCode

from vsyncd.call import Call
from vsyncd.tracing import TRACES
from vsyncd.transport.pipeline import Handler, Method


class Tracing:
    """Makes a span for each call but the probes'. When nobody asks for spans, calls pass it by."""

    def wrap(self, method: Method, handler: Handler) -> Handler:
        """See Interceptor."""
        spans = TRACES.spans
        if spans is None or method.is_health:
            return handler

        async def trace(request: Any, call: Call) -> Any:
            with spans.call(method.name, call.metadata, call.correlation_id, partial(_code, call)):
                return await handler(request, call)

        return trace


def _code(call: Call) -> int:
    """Of a call that has failed: what its context was given further in, CANCELLED when it was given none."""
    value = call.context.code()
    if isinstance(value, StatusCode):
        value = value.value[0]
    return int(value) or int(StatusCode.CANCELLED.value[0])
