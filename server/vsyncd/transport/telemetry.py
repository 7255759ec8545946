"""Counts and measures each call, and logs those that did not go well: what the server is to blame for as a warning,
the rest as information.

Calls that went well are logged at debug level: a line each would cost more than the call. Of those that fail alike,
LOG_FAILURES_PER_SECOND are logged, and how many were left out (`left_out`); the metrics count every one.
"""

import asyncio
import time
from collections.abc import AsyncIterable
from typing import Any, Final

from grpc import StatusCode

from vsyncd.core.context import RequestContext
from vsyncd.observability.logs import logger
from vsyncd.observability.metrics import CALLS, FAILURES, MethodMetrics
from vsyncd.transport.pipeline import Handler, Method
from vsyncd.transport.sampling import Sample

_SERVERS_BLAME = {
    StatusCode.INTERNAL,
    StatusCode.UNKNOWN,
    StatusCode.UNAVAILABLE,
    StatusCode.DATA_LOSS,
    StatusCode.DEADLINE_EXCEEDED,
    StatusCode.RESOURCE_EXHAUSTED,
}
# As go-grpc-prometheus spells them: NotFound, and Canceled with one l.
_SPELLED = {code: "".join(part.capitalize() for part in code.name.split("_")) for code in StatusCode} | {
    StatusCode.OK: "OK",
    StatusCode.CANCELLED: "Canceled",
}
_ROUNDING: Final = 0.01
_JITTER_S: Final = 0.02
_log = logger(__name__)


class Telemetry:
    """Measures each call; logs each but the probes'.

    most_failures: lines a second about calls of one method that fail alike.
    """

    def __init__(self, *, most_failures: int) -> None:
        self._sample = Sample(most_failures)

    def wrap(self, method: Method, handler: Handler) -> Handler:
        """See Interceptor."""
        tally = CALLS.method(method.name, grpc_type=method.kind)
        sample = None if method.is_health else self._sample
        streaming, handled, observe_seconds = not method.unary, tally.handled, tally.seconds.observe

        async def observe(request: Any, context: RequestContext) -> Any:
            started = time.perf_counter()
            tally.started += 1
            if streaming:
                request = _counted(request, context, method, tally)
            else:
                tally.received += 1
            try:
                response = await handler(request, context)
            except BaseException as error:
                _report(error, context, started, tally, sample)
                raise
            if not method.response_streaming:
                tally.sent += 1
            context.code = StatusCode.OK
            handled["OK"] += 1
            observe_seconds(time.perf_counter() - started)
            if _log.is_enabled_for(10) and sample is not None:
                _log.debug("call", code="OK", duration_ms=round((time.perf_counter() - started) * 1000, 2))
            return response

        return observe


def _counted(request: Any, context: RequestContext, method: Method, tally: MethodMetrics) -> Any:
    """The request of a stream, whose messages are counted as they come and go."""
    if method.response_streaming:
        context.count_sent = tally.count_sent
    if method.request_streaming:
        return _counting(request, tally)
    tally.received += 1
    return request


async def _counting(requests: AsyncIterable[Any], tally: MethodMetrics) -> AsyncIterable[Any]:
    async for request in requests:
        tally.received += 1
        yield request


def _report(
    error: BaseException, context: RequestContext, started: float, tally: MethodMetrics, sample: Sample | None
) -> None:
    """Records how a call failed."""
    elapsed = time.perf_counter() - started
    # Error mapping sets the code of a call that was answered.
    is_cancelled = context.code is None and isinstance(error, asyncio.CancelledError)
    if is_cancelled:
        context.code = _code_of_cancelled(context, elapsed)
    code = context.code = context.code or StatusCode.UNKNOWN
    tally.end(_SPELLED[code], elapsed)
    if context.reason:
        FAILURES.labels(context.reason).inc()
    if sample is None:
        return
    event = "call cancelled" if is_cancelled else "call failed"
    log = _log.warning if code in _SERVERS_BLAME and not is_cancelled else _log.info
    left_out = sample.take((context.method, code, context.reason))
    if left_out is not None:
        more = {"left_out": left_out} if left_out else {}
        log(event, code=code.name, reason=context.reason, duration_ms=round(elapsed * 1000, 2), **more)


def _code_of_cancelled(context: RequestContext, elapsed: float) -> StatusCode:
    left = context.remaining() if context.deadline is not None else context.servicer_context.time_remaining()
    return cancellation_code(elapsed=elapsed, left=left)


def cancellation_code(*, elapsed: float, left: float | None) -> StatusCode:
    """gRPC cancels a handler when the caller goes away and when the deadline has passed, without saying which.

    `left` are the seconds until the deadline, or None without one. A caller's own timer may fire earlier: gRPC rounds
    a timeout up by as much as 1% when it sends it, and its header may have travelled longer than the cancellation.
    """
    if left is not None and left <= (elapsed + left) * _ROUNDING + _JITTER_S:
        return StatusCode.DEADLINE_EXCEEDED
    return StatusCode.CANCELLED
