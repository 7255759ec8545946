"""A log line for each call that did not go well: what the server is to blame for as a warning, the rest as information.

Calls that went well are logged at debug level: a line each would cost more than the call.
"""

import asyncio
import time
from typing import Any

from grpc import StatusCode

from vsyncd.call import Call
from vsyncd.logs import logger
from vsyncd.transport.pipeline import Handler, Method

_SERVERS_BLAME = {
    StatusCode.INTERNAL,
    StatusCode.UNKNOWN,
    StatusCode.UNAVAILABLE,
    StatusCode.DATA_LOSS,
    StatusCode.DEADLINE_EXCEEDED,
    StatusCode.RESOURCE_EXHAUSTED,
}
_log = logger(__name__)


class Telemetry:
    """Measures and logs each call but the probes'."""

    def wrap(self, method: Method, handler: Handler) -> Handler:
        """See Interceptor."""
        if method.is_health:
            return handler

        async def observe(request: Any, call: Call) -> Any:
            started = time.perf_counter()
            try:
                response = await handler(request, call)
            except asyncio.CancelledError:
                _log.info("call cancelled", duration_ms=_since(started))
                raise
            except BaseException:
                _report(call, started)
                raise
            if _log.is_enabled_for(10):
                _log.debug("call", code="OK", duration_ms=_since(started))
            return response

        return observe


def _report(call: Call, started: float) -> None:
    """Further in, the error was turned into a status: the context knows its code."""
    value = call.context.code()
    code = next((code for code in StatusCode if code is value or code.value[0] == value), StatusCode.UNKNOWN)
    log = _log.warning if code in _SERVERS_BLAME else _log.info
    log("call failed", code=code.name, reason=call.reason, duration_ms=_since(started))


def _since(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 2)
