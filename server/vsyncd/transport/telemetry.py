"""Measures calls, and logs failed calls: at warning level for errors of the server, or else at info level.

Successful calls are logged at debug level, because an event costs more than a small call. Of similar failures, up to
LOG_FAILURES_PER_SECOND are logged with the number of omitted ones (`left_out`); the metrics count all.
"""

import asyncio
import time
from collections.abc import AsyncIterable
from typing import Any, Final

from grpc import StatusCode

from vsyncd.core.context import RequestContext
from vsyncd.observability.call_history import FAILURES as LAST_FAILURES
from vsyncd.observability.call_history import SERVER_ERRORS, FailedCall
from vsyncd.observability.logs import Sample, logger
from vsyncd.observability.metrics import CALLS, FAILURES, MethodMetrics
from vsyncd.transport.pipeline import Handler, Method

# The spelling of go-grpc-prometheus: NotFound, and Canceled with one l.
_CODE_NAMES = {code: "".join(part.capitalize() for part in code.name.split("_")) for code in StatusCode} | {
    StatusCode.OK: "OK",
    StatusCode.CANCELLED: "Canceled",
}
_ROUNDING: Final = 0.01
_JITTER_S: Final = 0.02
_log = logger(__name__)


class Telemetry:
    """Measures all calls, and logs all except health calls.

    `max_failures_per_second` limits the events about similar failures of one method.
    """

    def __init__(self, *, max_failures_per_second: int) -> None:
        self._sample = Sample(max_failures_per_second)

    def wrap(self, method: Method, handler: Handler) -> Handler:
        metrics = CALLS.method(method.name, grpc_type=method.kind)
        sample = None if method.is_exempt else self._sample
        streaming, handled, observe_seconds = not method.unary, metrics.handled, metrics.seconds.observe

        async def observe(request: Any, context: RequestContext) -> Any:
            started = time.perf_counter()
            metrics.started += 1
            if streaming:
                request = _counted(request, context, method, metrics)
            else:
                metrics.received += 1
            try:
                response = await handler(request, context)
            except BaseException as error:
                _report(error, context, started, metrics, sample)
                raise
            if not method.response_streaming:
                metrics.sent += 1
            context.code = StatusCode.OK
            handled["OK"] += 1
            observe_seconds(time.perf_counter() - started)
            if _log.is_enabled_for(10) and sample is not None:
                _log.debug("call completed", code="OK", duration_ms=round((time.perf_counter() - started) * 1000, 2))
            return response

        return observe


def _counted(request: Any, context: RequestContext, method: Method, metrics: MethodMetrics) -> Any:
    """Returns the request of a stream. Counts its messages."""
    if method.response_streaming:
        context.count_sent = metrics.count_sent
    if method.request_streaming:
        return _counting(request, metrics)
    metrics.received += 1
    return request


async def _counting(requests: AsyncIterable[Any], metrics: MethodMetrics) -> AsyncIterable[Any]:
    async for request in requests:
        metrics.received += 1
        yield request


def _report(
    error: BaseException, context: RequestContext, started: float, metrics: MethodMetrics, sample: Sample | None
) -> None:
    elapsed = time.perf_counter() - started
    # Error mapping has set the code of an answered call.
    is_cancelled = context.code is None and isinstance(error, asyncio.CancelledError)
    if is_cancelled:
        left = context.remaining() if context.deadline is not None else context.servicer_context.time_remaining()
        context.code = cancellation_code(elapsed=elapsed, left=left)
    code = context.code = context.code or StatusCode.UNKNOWN
    metrics.end(_CODE_NAMES[code], elapsed)
    if context.reason:
        FAILURES.labels(context.reason).inc()
    if sample is None:
        return
    event = "call cancelled" if is_cancelled else "call failed"
    if code is not StatusCode.CANCELLED:
        LAST_FAILURES.add(
            FailedCall(time.time(), context.method, code.name, context.reason, context.correlation_id, elapsed)
        )
    log = _log.warning if _CODE_NAMES[code] in SERVER_ERRORS and not is_cancelled else _log.info
    left_out = sample.take((context.method, code, context.reason))
    if left_out is not None:
        more = {"left_out": left_out} if left_out else {}
        log(event, code=code.name, reason=context.reason, duration_ms=round(elapsed * 1000, 2), **more)


def cancellation_code(*, elapsed: float, left: float | None) -> StatusCode:
    """Returns the code of a call that gRPC cancelled: the client is gone, or the deadline has passed.

    gRPC does not tell which. `left` is the time until the deadline in seconds, or None without one. A client's own
    timer may fire earlier: gRPC rounds a timeout up by as much as 1 % when it sends it, and the header may have
    travelled longer than the cancellation.
    """
    if left is not None and left <= (elapsed + left) * _ROUNDING + _JITTER_S:
        return StatusCode.DEADLINE_EXCEEDED
    return StatusCode.CANCELLED
