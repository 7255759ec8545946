"""Counts and measures each call, and logs those that did not go well: what the server is to blame for as a warning,
the rest as information.

Calls that went well are logged at debug level: a line each would cost more than the call. Of those that fail alike,
LOG_FAILURES_PER_SECOND are logged, and how many were left out (`left_out`); the metrics count every one.
"""

import asyncio
import time
from collections.abc import AsyncIterable, Callable
from typing import Any

from grpc import StatusCode

from vsyncd.call import Call
from vsyncd.logs import logger
from vsyncd.metrics import FAILURES, RPCS, MethodTally
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
_log = logger(__name__)


class Telemetry:
    """Measures each call; logs each but the probes'.

    most_failures: lines a second about calls of one method that fail alike.
    """

    def __init__(self, *, most_failures: int) -> None:
        self._sample = Sample(most_failures)

    def wrap(self, method: Method, handler: Handler) -> Handler:
        """See Interceptor."""
        tally = RPCS.method(method.name, grpc_type=method.kind)
        sample = None if method.is_health else self._sample
        streaming, handled, observe_seconds = not method.unary, tally.handled, tally.seconds.observe

        async def observe(request: Any, call: Call) -> Any:
            started = time.perf_counter()
            tally.started += 1
            if streaming:
                request = _counted(request, call, method, tally)
            else:
                tally.received += 1
            try:
                response = await handler(request, call)
            except asyncio.CancelledError:
                tally.end(_SPELLED[_why_cancelled(call)], time.perf_counter() - started)
                if sample is not None:
                    _tell(sample, _log.info, "call cancelled", call, StatusCode.CANCELLED, duration_ms=_since(started))
                raise
            except BaseException:
                _report(call, started, tally, sample)
                raise
            if not method.response_streaming:
                tally.sent += 1
            handled["OK"] += 1
            observe_seconds(time.perf_counter() - started)
            if _log.is_enabled_for(10) and sample is not None:
                _log.debug("call", code="OK", duration_ms=_since(started))
            return response

        return observe


def _counted(request: Any, call: Call, method: Method, tally: MethodTally) -> Any:
    """The request of a stream, whose messages are counted as they come and go."""
    if method.response_streaming:
        call.count_sent = tally.count_sent
    if method.request_streaming:
        return _counting(request, tally)
    tally.received += 1
    return request


async def _counting(requests: AsyncIterable[Any], tally: MethodTally) -> AsyncIterable[Any]:
    async for request in requests:
        tally.received += 1
        yield request


def _why_cancelled(call: Call) -> StatusCode:
    """gRPC cancels a handler when the caller goes away, and when the caller's deadline has passed."""
    left = call.remaining() if call.deadline is not None else call.context.time_remaining()
    return StatusCode.DEADLINE_EXCEEDED if left is not None and left <= 0 else StatusCode.CANCELLED


def _report(call: Call, started: float, tally: MethodTally, sample: Sample | None) -> None:
    """Further in, the error was turned into a status: the context knows its code."""
    value = call.context.code()
    code = next((code for code in StatusCode if code is value or code.value[0] == value), StatusCode.UNKNOWN)
    tally.end(_SPELLED[code], time.perf_counter() - started)
    if call.reason:
        FAILURES.labels(call.reason).inc()
    if sample is not None:
        log = _log.warning if code in _SERVERS_BLAME else _log.info
        _tell(sample, log, "call failed", call, code, code=code.name, reason=call.reason, duration_ms=_since(started))


def _tell(
    sample: Sample, log: Callable[..., object], event: str, call: Call, kind: StatusCode, **fields: object
) -> None:
    left_out = sample.take((call.method, kind, call.reason))
    if left_out:
        fields["left_out"] = left_out
    if left_out is not None:
        log(event, **fields)


def _since(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 2)
